/** Doing something again and again while somebody looks. */

import { onScopeDispose } from "vue";

/**
 * Calls `work` at once and then `seconds` after each end of it, but not while the page is hidden. What it
 * throws is its own affair. Ends with the scope that it was called in.
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
    await work().catch(() => undefined);
    busy = false;
    if (over) return;
    timer = setTimeout(now, again ? 0 : seconds * 1000);
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
