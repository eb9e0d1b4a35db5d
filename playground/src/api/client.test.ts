import { afterEach, describe, expect, it, vi } from "vitest";

import { answering, failing, json, unreachable } from "@/testing";
import { api, ApiError, authorize, authorizedFetch, data, newIdempotencyKey } from "./client";

afterEach(() => {
  authorize(undefined, () => undefined);
  vi.unstubAllGlobals();
});

describe("calls", () => {
  it("give what was answered", async () => {
    answering(json({ status: "ok" }));
    expect(await data(api.GET("/api/health"))).toEqual({ status: "ok" });
  });

  it("throw the server's own words, with its code", async () => {
    answering(failing(409, "task_conflict", "it has ended"));
    await expect(data(api.GET("/api/health"))).rejects.toMatchObject({
      code: "task_conflict",
      message: "it has ended",
      status: 409,
      passing: false,
    });
  });

  it("tell when they may be tried again", async () => {
    answering(failing(429, "rate_limited", "slowly", { "Retry-After": "7" }));
    await expect(data(api.GET("/api/health"))).rejects.toMatchObject({ retryAfter: 7, passing: true });
  });

  it("survive an answer that is no JSON", async () => {
    answering(() => new Response("<h1>Bad gateway</h1>", { status: 502 }));
    await expect(data(api.GET("/api/health"))).rejects.toMatchObject({ status: 502, passing: true });
  });

  it("say that the server does not answer", async () => {
    answering(unreachable());
    await expect(data(api.GET("/api/health"))).rejects.toMatchObject({ code: "offline", passing: true });
  });
});

describe("the key", () => {
  it("goes with every request once there is one", async () => {
    const asked = answering(json({}));
    await authorizedFetch("/api/health");
    authorize("k-1", () => undefined);
    await data(api.GET("/api/health"));
    expect(asked.map((request) => request.headers.get("Authorization"))).toEqual([null, "Bearer k-1"]);
  });

  it("is known to be refused", async () => {
    const refused = vi.fn();
    authorize("k-1", refused);
    answering(json({}), failing(403, "forbidden"), failing(401, "unauthenticated"));
    await authorizedFetch("/a");
    await authorizedFetch("/b");
    expect(refused).not.toHaveBeenCalled();
    await authorizedFetch("/c");
    expect(refused).toHaveBeenCalledOnce();
  });
});

it("what was aborted is no failure of the server", async () => {
  const stop = new AbortController();
  stop.abort();
  answering((request) => {
    request.signal.throwIfAborted();
    return new Response();
  });
  await expect(authorizedFetch("/a", { signal: stop.signal })).rejects.not.toBeInstanceOf(ApiError);
});

it("what takes too long has no answer", async () => {
  const limit = new AbortController();
  vi.spyOn(AbortSignal, "timeout").mockReturnValue(limit.signal);
  answering(
    (request) =>
      new Promise((_, reject) => {
        request.signal.addEventListener("abort", () => {
          reject(new DOMException("timed out", "TimeoutError"));
        });
        limit.abort();
      }),
  );
  await expect(data(api.GET("/api/health"))).rejects.toMatchObject({ code: "offline", passing: true });
});

it("idempotency keys are printable and differ", () => {
  const keys = Array.from({ length: 50 }, newIdempotencyKey);
  expect(new Set(keys).size).toBe(50);
  for (const key of keys) expect(key).toMatch(/^[\x21-\x7e]{1,255}$/);
});
