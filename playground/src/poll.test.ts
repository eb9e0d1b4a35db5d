import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { effectScope } from "vue";

import { ApiError } from "@/api/client";
import { poll } from "./poll";

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

function seen(state: DocumentVisibilityState): void {
  vi.spyOn(document, "visibilityState", "get").mockReturnValue(state);
  document.dispatchEvent(new Event("visibilitychange"));
}

it("works while somebody looks, one turn after the other, and ends with its scope", async () => {
  const work = vi.fn(() => new Promise((resolve) => setTimeout(resolve, 3000)));
  const scope = effectScope();
  scope.run(() => poll(1, work));
  await vi.advanceTimersByTimeAsync(2900);
  expect(work).toHaveBeenCalledTimes(1);
  await vi.advanceTimersByTimeAsync(1200);
  expect(work).toHaveBeenCalledTimes(2);
  seen("hidden");
  await vi.advanceTimersByTimeAsync(60_000);
  expect(work).toHaveBeenCalledTimes(2);
  seen("visible");
  expect(work).toHaveBeenCalledTimes(3);
  scope.stop();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(work).toHaveBeenCalledTimes(3);
});

it("goes on after a failure, and once more at once if it was asked to meanwhile", async () => {
  const work = vi.fn(() => Promise.reject(new Error("away")));
  const scope = effectScope();
  const polled = scope.run(() => poll(1, work));
  polled?.now();
  await vi.advanceTimersByTimeAsync(10);
  expect(work).toHaveBeenCalledTimes(2);
  await vi.advanceTimersByTimeAsync(1000);
  expect(work).toHaveBeenCalledTimes(3);
  scope.stop();
});

it("waits for as long as the server wants", async () => {
  const work = vi.fn(() => Promise.reject(new ApiError("rate_limited", "slowly", 429, 7)));
  const scope = effectScope();
  scope.run(() => poll(1, work));
  await vi.advanceTimersByTimeAsync(6900);
  expect(work).toHaveBeenCalledTimes(1);
  await vi.advanceTimersByTimeAsync(200);
  expect(work).toHaveBeenCalledTimes(2);
  scope.stop();
});
