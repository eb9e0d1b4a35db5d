/** The list of tasks: what is wanted of it, and the pages that were read. */

import { defineStore } from "pinia";
import { computed, reactive, ref, shallowRef } from "vue";

import { api, ApiError, data, type JobStatus, type TaskSummary } from "@/api/client";

const PAGE = 50;

export const useTasks = defineStore("tasks", () => {
  const wanted = reactive({ statuses: [] as JobStatus[], search: "", labels: [] as string[] });
  const first = shallowRef<TaskSummary[]>([]);
  const further = shallowRef<TaskSummary[]>([]);
  const total = ref(0);
  const totalIsExact = ref(true);
  const cursor = ref<string | null>(null);
  const loaded = ref(false);
  const error = shallowRef<ApiError>();
  let asked = 0;

  /** Newest first. A task that moved from one page to the next meanwhile stands there once. */
  const shown = computed(() => {
    const known = new Set(first.value.map((task) => task.task_id));
    return [...first.value, ...further.value.filter((task) => !known.has(task.task_id))];
  });

  async function read(after?: string) {
    const query = {
      limit: PAGE,
      status: wanted.statuses.length ? wanted.statuses : undefined,
      q: wanted.search.trim() || undefined,
      metadata: wanted.labels.length ? wanted.labels : undefined,
      cursor: after,
    };
    return await data(api.GET("/api/agent/task/list", { params: { query } }));
  }

  /** Reads the newest page again. */
  async function refresh(): Promise<void> {
    const mine = ++asked;
    try {
      const page = await read();
      if (mine !== asked) return; // something else is wanted by now
      first.value = page.tasks;
      total.value = page.total;
      totalIsExact.value = page.total_is_exact;
      if (!further.value.length) cursor.value = page.next_cursor;
      error.value = undefined;
      loaded.value = true;
    } catch (problem) {
      if (mine === asked) error.value = ApiError.of(problem);
    }
  }

  /** Reads the page after those that are shown. Throws `ApiError`. */
  async function more(): Promise<void> {
    if (!cursor.value) return;
    const mine = asked;
    const page = await read(cursor.value);
    if (mine !== asked && !loaded.value) return;
    further.value = [...further.value, ...page.tasks];
    cursor.value = page.next_cursor;
  }

  /** Something else is wanted. */
  async function restart(): Promise<void> {
    further.value = [];
    cursor.value = null;
    loaded.value = false;
    await refresh();
  }

  return { wanted, shown, total, totalIsExact, cursor, loaded, error, refresh, more, restart };
});
