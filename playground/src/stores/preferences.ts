/** How the page looks: its language, and light or dark. Kept in the browser. */

import { defineStore } from "pinia";
import { ref, watch, watchEffect } from "vue";

import { i18n, locales, type Locale } from "@/i18n";

const themes = ["system", "light", "dark"] as const;
type Theme = (typeof themes)[number];

function remembered<T extends string>(name: string, choices: readonly T[]): T | undefined {
  const found = localStorage.getItem(name);
  return choices.find((choice) => choice === found);
}

export const usePreferences = defineStore("preferences", () => {
  const browsers = navigator.language.startsWith("zh") ? "zh" : "en";
  const locale = ref<Locale>(remembered("guiagent.locale", locales) ?? browsers);
  const theme = ref<Theme>(remembered("guiagent.theme", themes) ?? "system");

  watchEffect(() => {
    i18n.global.locale.value = locale.value;
    document.documentElement.lang = locale.value === "zh" ? "zh-CN" : "en";
    document.documentElement.dataset.theme = theme.value;
  });
  watch(locale, (chosen) => {
    localStorage.setItem("guiagent.locale", chosen);
  });
  watch(theme, (chosen) => {
    localStorage.setItem("guiagent.theme", chosen);
  });

  return { locale, theme, locales, themes };
});
