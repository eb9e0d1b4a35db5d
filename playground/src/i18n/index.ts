/** What the page says, in English and in Chinese. */

import { createI18n } from "vue-i18n";

import type { ApiError } from "@/api/client";
import { en } from "./en";
import { zh } from "./zh";

export type Messages = typeof en;
export const locales = ["en", "zh"] as const;
export type Locale = (typeof locales)[number];

export const i18n = createI18n({
  legacy: false,
  locale: "en",
  fallbackLocale: "en",
  messages: { en, zh },
});

/** Why a task waits; the server says it in English (`pending_reason` in `api/views.py`). */
export function waiting(reason: string): string {
  const { t } = i18n.global;
  if (reason === "waiting for a worker") return t("task.waitsWorker");
  const [, id, task] = /^waiting for sandbox (.+), which (?:task (\S+)|another task) uses/.exec(reason) ?? [];
  if (!id) return reason;
  return task ? t("task.waitsTask", { id, task }) : t("task.waitsSandbox", { id });
}

/** What went wrong, and what to do about it where that is known. */
export function explain(error: ApiError): string {
  const { t, te } = i18n.global;
  const named = `errors.${error.code}`;
  const said = { message: error.message, seconds: error.retryAfter ?? 1 };
  return te(named) ? t(named, said) : t("errors.other", said);
}
