import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { answering, failing, unreachable } from "@/testing";
import type { ApiError, TaskEvent } from "./client";
import { follow, SILENT_SECONDS, UNSEEN_SECONDS, type Connection } from "./stream";

const text = new TextEncoder();

function frame(seq: number, type = "thinking"): string {
  return `id: ${seq}\ndata: ${JSON.stringify({ seq, type, content: "…" })}\n\n`;
}

/** An answer that sends the pieces; it then ends, unless it is to stay open. */
function stream(pieces: string[], { open = false } = {}) {
  return (request: Request) =>
    new Response(
      new ReadableStream({
        start(controller) {
          for (const piece of pieces) controller.enqueue(text.encode(piece));
          if (!open) controller.close();
          request.signal.addEventListener("abort", () => {
            controller.error(new DOMException("aborted", "AbortError"));
          });
        },
      }),
    );
}

const open: (() => void)[] = [];

function listening() {
  const told: number[] = [];
  const states: Connection[] = [];
  const failures: ApiError[] = [];
  const close = follow("t-1", 0, {
    event: (event: TaskEvent) => told.push(event.seq),
    connection: (state) => states.push(state),
    failed: (error) => failures.push(error),
  });
  open.push(close);
  return { told, states, failures, close };
}

const lastIds = (asked: Request[]) => asked.map((request) => request.headers.get("Last-Event-ID"));

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  while (open.length) open.pop()?.();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe("a stream", () => {
  it("tells events in order until the terminal one, and asks no more", async () => {
    const asked = answering(stream([frame(1), frame(2) + frame(3, "finished")]));
    const { told, states } = listening();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(told).toEqual([1, 2, 3]);
    expect(states).toEqual(["connecting", "live", "over"]);
    expect(asked).toHaveLength(1);
  });

  it("goes on after the last event when it breaks, even in the midst of one", async () => {
    const half = frame(3).slice(0, 12);
    const asked = answering(stream([frame(1), frame(2), half]), stream([frame(3), frame(4, "error")]));
    const { told, states } = listening();
    await vi.advanceTimersByTimeAsync(5_000);
    expect(told).toEqual([1, 2, 3, 4]);
    expect(lastIds(asked)).toEqual([null, "2"]);
    expect(states).toEqual(["connecting", "live", "lost", "live", "over"]);
  });

  it("tells nothing twice, whatever is sent again", async () => {
    answering(stream([frame(1), frame(2)]), stream([frame(1), frame(2), frame(3, "cancelled")]));
    const { told } = listening();
    await vi.advanceTimersByTimeAsync(5_000);
    expect(told).toEqual([1, 2, 3]);
  });

  it("waits for a server that is away, longer each time, and comes back", async () => {
    const away = unreachable();
    const asked = answering(
      stream([frame(1)]),
      away,
      failing(503, "storage_unavailable"),
      away,
      stream([frame(2, "finished")]),
    );
    const { told, failures } = listening();
    await vi.advanceTimersByTimeAsync(600);
    expect(asked.length).toBeLessThan(4);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(told).toEqual([1, 2]);
    expect(failures).toEqual([]);
  });

  it("waits as long as the server says", async () => {
    const asked = answering(
      failing(429, "rate_limited", "slowly", { "Retry-After": "20" }),
      stream([frame(1, "finished")]),
    );
    listening();
    await vi.advanceTimersByTimeAsync(14_000);
    expect(asked).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(12_000);
    expect(asked).toHaveLength(2);
  });

  it("gives up where there is no such task", async () => {
    const asked = answering(failing(404, "task_not_found"));
    const { failures } = listening();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(failures.map((error) => error.code)).toEqual(["task_not_found"]);
    expect(asked).toHaveLength(1);
  });

  it("ends where there will be no more events", async () => {
    answering(() => new Response(null, { status: 204 }));
    const { states } = listening();
    await vi.advanceTimersByTimeAsync(1_000);
    expect(states).toEqual(["connecting", "over"]);
  });

  it("notices a connection that died without a word, as in sleep", async () => {
    const asked = answering(stream([frame(1)], { open: true }), stream([frame(2, "finished")]));
    const { told } = listening();
    await vi.advanceTimersByTimeAsync((SILENT_SECONDS - 5) * 1000);
    expect(asked).toHaveLength(1);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(told).toEqual([1, 2]);
    expect(lastIds(asked)).toEqual([null, "1"]);
  });

  it("does not wait when the page is looked at again", async () => {
    const asked = answering(unreachable());
    listening();
    await vi.advanceTimersByTimeAsync(30_000);
    const before = asked.length;
    document.dispatchEvent(new Event("visibilitychange"));
    await vi.advanceTimersByTimeAsync(0);
    expect(asked.length).toBe(before + 1);
  });

  it("holds no connection while nobody looks, and goes on when somebody does", async () => {
    const looked = vi.spyOn(document, "visibilityState", "get").mockReturnValue("hidden");
    const asked = answering(stream([frame(1)], { open: true }), stream([frame(2, "finished")]));
    const { told } = listening();
    await vi.advanceTimersByTimeAsync((UNSEEN_SECONDS - 5) * 1000);
    expect(asked[0]?.signal.aborted).toBe(false);
    await vi.advanceTimersByTimeAsync(600_000);
    expect(asked.map((request) => request.signal.aborted)).toEqual([true]);
    looked.mockReturnValue("visible");
    document.dispatchEvent(new Event("visibilitychange"));
    await vi.advanceTimersByTimeAsync(0);
    expect(told).toEqual([1, 2]);
    expect(lastIds(asked)).toEqual([null, "1"]);
  });

  it("is silent once it was closed", async () => {
    const asked = answering(stream([frame(1)]));
    const { told, close, failures } = listening();
    close();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(told).toEqual([]);
    expect(failures).toEqual([]);
    expect(asked.length).toBeLessThanOrEqual(1);
  });
});
