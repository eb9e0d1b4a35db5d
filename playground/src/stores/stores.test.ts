import { createPinia, setActivePinia } from "pinia";
import { afterEach, beforeEach, describe, expect, it, vi, type MockInstance } from "vitest";

import { authorize } from "@/api/client";
import { answering, failing, json } from "@/testing";
import { useCredentials } from "./credentials";
import { useSession } from "./session";
import { useTask } from "./task";
import { useTasks } from "./tasks";

beforeEach(() => {
  setActivePinia(createPinia());
  sessionStorage.clear();
  localStorage.clear();
});
afterEach(() => {
  authorize(undefined, () => undefined);
  vi.unstubAllGlobals();
});

const summary = (id: string) => ({ task_id: id, status: "running", metadata: {} });
const page = (ids: string[], next: string | null = null) =>
  json({
    success: true,
    tasks: ids.map(summary),
    count: ids.length,
    total: 9,
    total_is_exact: true,
    next_cursor: next,
  });

describe("the session", () => {
  const info = json({ success: true, api_keys: "required", limits: {} });

  let reload: MockInstance;

  beforeEach(() => {
    reload = vi.spyOn(location, "reload").mockImplementation(() => undefined);
  });

  it("begins anew with a good key, kept for the tab, and with no other", async () => {
    const asked = answering(failing(401, "unauthenticated", "unknown key"), info, info);
    const session = useSession();
    await expect(session.signIn("bad")).rejects.toThrow("unknown key");
    expect([reload.mock.calls.length, sessionStorage.length]).toEqual([0, 0]);
    await session.signIn("good");
    expect([reload.mock.calls.length, sessionStorage.getItem("guiagent.key")]).toEqual([1, "good"]);
    expect(localStorage.length).toBe(0);
    await session.start();
    expect([session.refused, session.keyed]).toEqual([false, true]);
    expect(asked.at(-1)?.headers.get("Authorization")).toBe("Bearer good");
  });

  it("leaves nothing behind at its end", () => {
    sessionStorage.setItem("guiagent.key", "good");
    useSession().signOut();
    expect([reload.mock.calls.length, sessionStorage.length]).toEqual([1, 0]);
  });

  it("is over when a key was revoked", async () => {
    sessionStorage.setItem("guiagent.key", "good");
    answering(info, failing(401, "unauthenticated"));
    const session = useSession();
    await session.start();
    expect(session.refused).toBe(false);
    await useTasks().refresh();
    expect(session.refused).toBe(true);
  });
});

it("credentials stay in memory, and go whole or not at all", () => {
  const credentials = useCredentials();
  credentials.given.lybicKey = "sk-lybic";
  expect(credentials.forTask).toEqual({ authentication: undefined, ark_apikey: undefined });
  credentials.given.lybicOrg = "org";
  credentials.given.modelKey = "ark";
  expect(JSON.parse(JSON.stringify(credentials.forTask))).toEqual({
    authentication: { api_key: "sk-lybic", org_id: "org" },
    ark_apikey: "ark",
  });
  expect(JSON.stringify({ ...localStorage, ...sessionStorage })).not.toMatch(/sk-lybic|ark/);
});

describe("the list", () => {
  it("reads all that is shown again, in pages that the server gives", async () => {
    const there = Array.from({ length: 620 }, (_, index) => `${index}`);
    const limits: number[] = [];
    answering((request) => {
      const query = new URL(request.url).searchParams;
      const [from, limit] = [Number(query.get("cursor")), Number(query.get("limit"))];
      limits.push(limit);
      const next = from + limit < there.length ? `${from + limit}` : null;
      return page(there.slice(from, from + limit), next)(request);
    });
    const tasks = useTasks();
    const shown = () => tasks.shown.map((task) => task.task_id);
    await tasks.refresh();
    expect([shown().length, tasks.further]).toEqual([50, true]);
    for (let times = 0; times < 10; times += 1) await tasks.more();
    expect(shown()).toEqual(there.slice(0, 550));
    there.unshift("new", "newer");
    limits.length = 0;
    await tasks.refresh();
    expect([shown(), limits]).toEqual([there.slice(0, 550), [500, 50]]);
    await tasks.restart();
    expect([shown().length, tasks.further]).toEqual([50, true]);
  });

  it("asks for what is wanted", async () => {
    const asked = answering(page([]));
    const tasks = useTasks();
    Object.assign(tasks.wanted, { statuses: ["error", "running"], search: " book ", labels: ["team:a"] });
    await tasks.restart();
    const query = new URL(asked[0]?.url ?? "").searchParams;
    expect([query.getAll("status"), query.get("q"), query.getAll("metadata")]).toEqual([
      ["error", "running"],
      "book",
      ["team:a"],
    ]);
  });

  it("shows no late answer to an earlier question", async () => {
    let answer: (response: Response) => void = () => undefined;
    answering(() => new Promise((resolve) => (answer = resolve)), page(["new"]));
    const tasks = useTasks();
    const first = tasks.refresh();
    await Promise.resolve();
    await tasks.restart();
    answer(Response.json({ tasks: [summary("old")], total: 1, total_is_exact: true, next_cursor: null }));
    await first;
    expect(tasks.shown.map((task) => task.task_id)).toEqual(["new"]);
  });
});

describe("a task", () => {
  const step = (number: number, status = "done", feedback?: string) => ({ number, status, feedback });
  const state = { steps: [step(1)], status: "running", broken: false };
  let after: number[];

  beforeEach(() => {
    vi.useFakeTimers();
    after = [];
    Object.assign(state, { steps: [step(1), step(2, "intended")], status: "running", broken: false });
    answering((request) => {
      const url = new URL(request.url);
      if (url.pathname.endsWith("/events")) return new Response(new ReadableStream());
      if (state.broken) return failing(503, "storage_unavailable")(request);
      if (url.pathname.includes("/status/")) return Response.json({ task_id: "t", status: state.status });
      const from = Number(url.searchParams.get("after"));
      after.push(from);
      return Response.json({ steps: state.steps.filter((one) => one.number > from), next_after: null });
    });
  });
  afterEach(() => {
    useTask().leave();
    vi.useRealTimers();
  });

  async function reading(): Promise<void> {
    await vi.advanceTimersByTimeAsync(5000);
  }

  it("reads again what may have changed, and nothing else", async () => {
    const task = useTask();
    task.open("t");
    await reading();
    expect(task.steps).toEqual(state.steps);
    const before = after.length;
    state.steps = [step(1), step(2), step(3)];
    state.status = "finished";
    void task.refresh();
    await reading();
    expect([task.steps, task.ended]).toEqual([state.steps, true]);
    expect(after.slice(before)).toEqual([1]);
    task.leave();
    expect([task.steps, task.events, task.task]).toEqual([[], [], undefined]);
  });

  it("reads what a person told the agent, which the server adds to the last step", async () => {
    const task = useTask();
    state.steps = [step(1), step(2)];
    task.open("t");
    await reading();
    state.steps = [step(1), step(2, "done", "I closed the dialog.")];
    void task.refresh();
    await reading();
    expect(task.steps).toEqual(state.steps);
  });

  it("says why it can't be read, until it can", async () => {
    const task = useTask();
    state.broken = true;
    task.open("t");
    await reading();
    expect([task.trouble?.code, task.task]).toEqual(["storage_unavailable", undefined]);
    state.broken = false;
    await reading();
    expect([task.trouble, task.status]).toEqual([undefined, "running"]);
  });
});
