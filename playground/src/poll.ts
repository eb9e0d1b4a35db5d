/** Doing something again and again while somebody looks. */

import { onScopeDispose } from "vue";

import { ApiError } from "@/api/client";

/**
 * Calls `work` at once and then `seconds` after each end of it, or later if an `ApiError` that it throws says
 * so, but not while the page is hidden. What else it throws is its own affair. Ends with the scope that it was
 * called in.
 */
export function poll(seconds: number, work: () => Promise<unknown>): { now: () => void } {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let busy = false;
  let again = false;
  let over = false;

  async function turn(): Promise<void> {
    clearTimeout(timer);
    again = busy;
    if (busy || over || document.visibilityState === "hidden") return;
    busy = true;
    const told = await work().then(() => undefined, ApiError.of);
    busy = false;
    if (over) return;
    timer = setTimeout(now, Math.max(again ? 0 : seconds, told?.retryAfter ?? 0) * 1000);
  }

  function now(): void {
    void turn();
  }

  document.addEventListener("visibilitychange", now);
  onScopeDispose(() => {
    over = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", now);
  });
  now();
  return { now };
}
