/** A task's events: those that are there, then those that come, through whatever happens to the connection. */

import { createParser } from "eventsource-parser";

import { ApiError, authorizedFetch, type TaskEvent } from "./client";

export type Connection = "connecting" | "live" | "lost" | "over";

/** The server speaks every 15 seconds: one that is silent for so long is gone, though its socket is open. */
export const SILENT_SECONDS = 40;
/** Browsers allow a server six connections: a tab that nobody has looked at for so long gives its own back. */
export const UNSEEN_SECONDS = 30;
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 10_000;

export interface Listener {
  event(event: TaskEvent): void;
  connection(state: Connection): void;
  /** There is no such task, or no right to it: nothing more will come. */
  failed(error: ApiError): void;
}

/**
 * Follows a task from the event after `last` on, until its terminal one. Whenever the connection breaks, or
 * the machine wakes up, it goes on after the last event that arrived: none is missed, none told twice.
 * Returns what ends it.
 */
export function follow(taskId: string, last: number, listener: Listener): () => void {
  const ended = new AbortController();
  let connection: AbortController | undefined;
  let heard = Date.now();
  let pause = FIRST_PAUSE;
  let hurry: () => void = () => undefined;

  let seen = Date.now();

  const hidden = () => document.visibilityState === "hidden";
  const silent = () => Date.now() - heard > SILENT_SECONDS * 1000;
  const unseen = () => hidden() && Date.now() - seen > UNSEEN_SECONDS * 1000;
  const watchdog = setInterval(() => {
    if (!hidden()) seen = Date.now();
    if (silent() || unseen()) connection?.abort();
  }, 1000);
  // Time-outs may have slept as well: whoever comes back should not wait for them.
  const wakeUp = () => {
    if (hidden()) return;
    if (silent()) connection?.abort();
    pause = FIRST_PAUSE;
    hurry();
  };
  document.addEventListener("visibilitychange", wakeUp);
  window.addEventListener("online", wakeUp);

  async function connect(): Promise<void> {
    connection = new AbortController();
    heard = Date.now();
    const headers: Record<string, string> = { Accept: "text/event-stream" };
    if (last) headers["Last-Event-ID"] = String(last);
    const signal = AbortSignal.any([ended.signal, connection.signal]);
    const response = await authorizedFetch(`/api/agent/task/${encodeURIComponent(taskId)}/events`, {
      headers,
      signal,
      cache: "no-store",
    });
    if (response.status === 204) {
      finish();
      return;
    }
    if (!response.ok || !response.body) throw await ApiError.read(response);
    const parser = createParser({
      onEvent: ({ data }) => {
        take(JSON.parse(data) as TaskEvent);
      },
    });
    listener.connection("live");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      heard = Date.now();
      pause = FIRST_PAUSE;
      parser.feed(piece.value);
    }
  }

  function take(event: TaskEvent): void {
    if (event.seq <= last || ended.signal.aborted) return;
    last = event.seq;
    listener.event(event);
    if (["finished", "error", "cancelled"].includes(event.type)) finish();
  }

  function finish(): void {
    if (!ended.signal.aborted) listener.connection("over");
    close();
  }

  function close(): void {
    ended.abort();
    clearInterval(watchdog);
    document.removeEventListener("visibilitychange", wakeUp);
    window.removeEventListener("online", wakeUp);
    hurry();
  }

  async function run(): Promise<void> {
    listener.connection("connecting");
    while (!ended.signal.aborted) {
      let wait = pause;
      try {
        await connect();
      } catch (error) {
        if (ended.signal.aborted) return;
        const told = ApiError.of(error);
        if (!told.passing) {
          listener.failed(told);
          close();
          return;
        }
        wait = Math.max(pause, (told.retryAfter ?? 0) * 1000);
      }
      if (ended.signal.aborted) return;
      listener.connection("lost");
      pause = Math.min(pause * 2, LONGEST_PAUSE);
      await new Promise<void>((resolve) => {
        hurry = resolve;
        if (!unseen()) setTimeout(resolve, wait * (0.75 + Math.random() / 2)); // or all would come back at once
      });
    }
  }

  void run();
  return close;
}
