/** Short notices of what became of something that the user asked for. */

import { defineStore } from "pinia";
import { ref } from "vue";

import { ApiError } from "@/api/client";
import { explain } from "@/i18n";

export interface Notice {
  id: number;
  kind: "done" | "failed";
  text: string;
}

export const useNotices = defineStore("notices", () => {
  const shown = ref<Notice[]>([]);
  let count = 0;

  function tell(kind: Notice["kind"], text: string): void {
    shown.value.push({ id: ++count, kind, text });
  }

  function dismiss(id: number): void {
    shown.value = shown.value.filter((notice) => notice.id !== id);
  }

  /** Whether it went well; a failure is told. */
  async function attempt(doing: () => Promise<unknown>, done?: string): Promise<boolean> {
    try {
      await doing();
    } catch (error) {
      tell("failed", explain(ApiError.of(error)));
      return false;
    }
    if (done) tell("done", done);
    return true;
  }

  return { shown, tell, dismiss, attempt };
});
