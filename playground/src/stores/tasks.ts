/** The list of tasks: what is wanted of it, and what was read. */

import { defineStore } from "pinia";
import { reactive, ref, shallowRef } from "vue";

import { api, ApiError, data, type JobStatus, type TaskSummary } from "@/api/client";

const PAGE = 50;
/** So many the server gives at once. */
const MOST = 500;

export const useTasks = defineStore("tasks", () => {
  const wanted = reactive({ statuses: [] as JobStatus[], search: "", labels: [] as string[] });
  /** Newest first. */
  const shown = shallowRef<TaskSummary[]>([]);
  const total = ref(0);
  const totalIsExact = ref(true);
  /** There are more than are shown. */
  const further = ref(false);
  const loaded = ref(false);
  const error = shallowRef<ApiError>();
  let count = PAGE;
  let asked = 0;

  /** As many as are wanted, from the newest on. Throws `ApiError`. */
  async function read() {
    const query = {
      status: wanted.statuses.length ? [...wanted.statuses] : undefined,
      q: wanted.search.trim() || undefined,
      metadata: wanted.labels.length ? [...wanted.labels] : undefined,
    };
    const [most, tasks] = [count, [] as TaskSummary[]];
    for (let cursor: string | undefined; ;) {
      const params = { query: { ...query, limit: Math.min(most - tasks.length, MOST), cursor } };
      const page = await data(api.GET("/api/agent/task/list", { params }));
      tasks.push(...page.tasks);
      cursor = page.next_cursor ?? undefined;
      if (!cursor || tasks.length >= most) return { ...page, tasks };
    }
  }

  /** Reads all that is shown again: any of it may have changed. */
  async function refresh(): Promise<void> {
    const mine = ++asked;
    try {
      const found = await read();
      if (mine !== asked) return; // something else is wanted by now
      shown.value = found.tasks;
      total.value = found.total;
      totalIsExact.value = found.total_is_exact;
      further.value = found.next_cursor !== null;
      error.value = undefined;
      loaded.value = true;
    } catch (problem) {
      if (mine === asked) error.value = ApiError.of(problem);
    }
  }

  /** More are wanted. */
  async function more(): Promise<void> {
    count += PAGE;
    await refresh();
  }

  /** Something else is wanted. */
  async function restart(): Promise<void> {
    count = PAGE;
    loaded.value = false;
    await refresh();
  }

  return { wanted, shown, total, totalIsExact, further, loaded, error, refresh, more, restart };
});
