/** Times and durations as people read them. */

import { computed } from "vue";
import { useI18n } from "vue-i18n";

export function useFormat() {
  const { locale, t } = useI18n();
  // As people of the reader's country write times, if that speaks the page's language.
  const tag = computed(() => navigator.languages.find((one) => one.startsWith(locale.value)) ?? locale.value);
  const moments = computed(
    () => new Intl.DateTimeFormat(tag.value, { dateStyle: "medium", timeStyle: "medium" }),
  );
  const clock = computed(() => new Intl.DateTimeFormat(tag.value, { timeStyle: "medium" }));
  const relative = computed(() => new Intl.RelativeTimeFormat(tag.value, { numeric: "auto" }));
  const numbers = computed(() => new Intl.NumberFormat(tag.value));

  function moment(value: string | null | undefined): string {
    return value ? moments.value.format(new Date(value)) : t("common.none");
  }

  function time(value: string): string {
    return clock.value.format(new Date(value));
  }

  /** `3 minutes ago`, `in 2 hours`. */
  function ago(value: string, now = Date.now()): string {
    const seconds = (new Date(value).getTime() - now) / 1000;
    const size = Math.abs(seconds);
    if (size < 10) return t("time.now");
    if (size < 60) return relative.value.format(Math.round(seconds), "second");
    if (size < 3600) return relative.value.format(Math.round(seconds / 60), "minute");
    if (size < 86400) return relative.value.format(Math.round(seconds / 3600), "hour");
    return relative.value.format(Math.round(seconds / 86400), "day");
  }

  function number(value: number): string {
    return numbers.value.format(value);
  }

  return { moment, time, ago, number };
}

/** `1234` → `1.2 s`. */
export function duration(milliseconds: number): string {
  if (milliseconds < 1000) return `${Math.round(milliseconds)} ms`;
  const seconds = milliseconds / 1000;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds) % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** The first line of an instruction, and what comes after it. */
export function titled(instruction: string): { title: string; rest: string } {
  const [title = "", ...rest] = instruction.trim().split("\n");
  return { title: title.trim(), rest: rest.join("\n").trim() };
}
