/** One task as it is watched: its state, its steps, its events, and the connection that brings them. */

import { defineStore } from "pinia";
import { computed, ref, shallowRef } from "vue";

import { api, ApiError, data, type Step, type StepsPage, type Task, type TaskEvent } from "@/api/client";
import { follow, type Connection } from "@/api/stream";

const FIELDS = [
  "task_id,status,query,max_steps,steps,priority,created_at,started_at,updated_at,finished_at,sandbox_info",
  "finished_output,error_code,error_message,parent_task_id,metadata,usage,queue_position,pending_reason",
].join(",");
const PAGE = 500;
/** Milliseconds between two readings, however fast the events come; and where the server did not answer. */
const PAUSE = 500;
const PAUSE_AWAY = 3000;

export const useTask = defineStore("task", () => {
  const id = ref("");
  const task = shallowRef<Task>();
  const steps = shallowRef<Step[]>([]);
  const events = shallowRef<TaskEvent[]>([]);
  const connection = ref<Connection>("connecting");
  /** It can't be watched. */
  const error = shallowRef<ApiError>();
  /** The last reading failed, and will be tried again. */
  const trouble = shallowRef<ApiError>();

  const status = computed(() => task.value?.status);
  const ended = computed(() => ["finished", "error", "cancelled"].includes(status.value ?? ""));
  /** Why it waits for a human, or what it found out on its way. */
  const call = computed(() => events.value.findLast((event) => event.type === "human_intervention"));
  const results = computed(() => events.value.filter((event) => event.type === "result"));

  let close: () => void = () => undefined;
  let reading: Promise<void> | undefined;
  let stale = false;
  let wake: () => void = () => undefined;
  /** Events that are not shown yet: a thousand may come at once. */
  let arrived: TaskEvent[] = [];

  function open(taskId: string): void {
    leave();
    id.value = taskId;
    close = follow(taskId, 0, {
      event: (event) => {
        arrived.push(event);
        changed(taskId);
      },
      connection: (state) => {
        connection.value = state;
        if (state !== "connecting") changed(taskId);
      },
      failed: (problem) => (error.value = problem),
    });
    changed(taskId);
  }

  function leave(): void {
    close();
    wake(); // the next task need not wait
    id.value = "";
    task.value = undefined;
    steps.value = [];
    events.value = arrived = [];
    error.value = trouble.value = undefined;
  }

  /** Reads it again, for what no event tells. */
  async function refresh(): Promise<void> {
    if (id.value) changed(id.value);
    await reading;
  }

  /** Reads what may be new, now or after the reading that is under way; events say that, and not what. */
  function changed(taskId: string): void {
    stale = true;
    reading ??= read(taskId).finally(() => {
      reading = undefined;
      if (stale && id.value) changed(id.value);
    });
  }

  async function read(taskId: string): Promise<void> {
    stale = false;
    events.value = [...events.value, ...arrived];
    arrived = [];
    try {
      const params = { path: { task_id: taskId } };
      const now = await data(
        api.GET("/api/agent/task/status/{task_id}", { params: { ...params, query: { fields: FIELDS } } }),
      );
      const known = settled(steps.value);
      const newer = await stepsAfter(taskId, known.length);
      if (id.value !== taskId) return;
      task.value = now as Task;
      steps.value = [...known, ...newer];
      trouble.value = undefined;
    } catch (problem) {
      const told = ApiError.of(problem);
      if (id.value === taskId && !task.value && !told.passing) error.value = told;
      if (told.passing) {
        if (id.value === taskId) trouble.value = told;
        stale = !!id.value;
        await sleep(Math.max(PAUSE_AWAY, (told.retryAfter ?? 0) * 1000));
      }
    }
    await sleep(PAUSE);
  }

  function sleep(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, milliseconds);
    });
  }

  return {
    id,
    task,
    steps,
    events,
    connection,
    error,
    trouble,
    status,
    ended,
    call,
    results,
    open,
    leave,
    refresh,
  };
});

/** The steps before the first that may still change: the last may, for a person's message is added to it. */
function settled(steps: Step[]): Step[] {
  const open = steps.findIndex((step) => step.status === "intended");
  return steps.slice(0, open < 0 ? -1 : open);
}

async function stepsAfter(taskId: string, after: number): Promise<Step[]> {
  const found: Step[] = [];
  for (let next: number | null = after; next !== null;) {
    const query = { after: next, limit: PAGE };
    const page: StepsPage = await data(
      api.GET("/api/agent/task/{task_id}/steps", { params: { path: { task_id: taskId }, query } }),
    );
    found.push(...page.steps);
    next = page.next_after;
  }
  return found;
}
