import { expect, it } from "vitest";

import { ApiError } from "@/api/client";
import { explain, i18n, locales, waiting } from ".";
import { en } from "./en";
import { zh } from "./zh";

function texts(tree: object, path = ""): [string, string][] {
  return Object.entries(tree).flatMap(([name, value]: [string, string | object]) =>
    typeof value === "string"
      ? [[`${path}${name}`, value] as [string, string]]
      : texts(value, `${path}${name}.`),
  );
}

const placeholders = (text: string) => [...new Set(text.match(/\{\w+\}/g))].sort();

it("says the same in both languages, about the same things", () => {
  const chinese = new Map(texts(zh));
  for (const [path, text] of texts(en)) {
    expect(placeholders(chinese.get(path) ?? ""), path).toEqual(placeholders(text));
    expect(chinese.get(path), path).not.toBe("");
  }
  expect(chinese.size).toBe(texts(en).length);
});

it("says nothing that no view says", () => {
  const files = import.meta.glob<string>(["../**/*.{vue,ts}", "!./{en,zh}.ts"], {
    query: "?raw",
    import: "default",
    eager: true,
  });
  const code = Object.values(files).join("\n");
  const parent = (path: string) => path.slice(0, path.lastIndexOf(".") + 1);
  const said = (path: string) =>
    [`"${path}"`, `'${path}'`, `\`${parent(path)}\${`].some((one) => code.includes(one));
  expect(texts(en).filter(([path]) => !said(path))).toEqual([]);
});

it("every text can be read by the formatter", () => {
  for (const locale of locales) {
    i18n.global.locale.value = locale;
    for (const [path] of texts(en))
      expect(i18n.global.t(path, { count: 1, message: "m" }), path).not.toBe("");
  }
  i18n.global.locale.value = "en";
});

it("errors say what to do, and else what the server said", () => {
  expect(explain(new ApiError("offline", "TypeError"))).toMatch(/does not answer/);
  expect(explain(new ApiError("rate_limited", "m", 429, 9))).toMatch(/9 s/);
  expect(explain(new ApiError("something_new", "as the server said", 400))).toBe("as the server said");
  expect(explain(new ApiError("something_new", "{odd} | @:text", 400))).toBe("{odd} | @:text");
});

it.each([
  ["waiting for a worker", "等待空闲的工作进程"],
  ["waiting for sandbox SBX-1, which another task uses or asked for first", "等待沙箱 SBX-1"],
  ["waiting for sandbox SBX-1, which task 0af3 uses or asked for first", "等待沙箱 SBX-1，任务 0af3"],
  ["waiting for better days", "waiting for better days"],
])("%j is said in the reader's language", (reason, said) => {
  i18n.global.locale.value = "zh";
  expect(waiting(reason).startsWith(said)).toBe(true);
  i18n.global.locale.value = "en";
  if (reason.endsWith("first")) expect(reason.startsWith(waiting(reason))).toBe(true);
  else expect(waiting(reason)).toBe(reason);
});
