import { expect, it } from "vitest";

import { duration, titled } from "./format";

it.each([
  [7, "7 ms"],
  [1234, "1.2 s"],
  [59_949, "59.9 s"],
  [59_960, "1 min 0 s"],
  [60_000, "1 min 0 s"],
  [3_599_000, "59 min 59 s"],
  [7_260_000, "2 h 1 min"],
])("%d ms are %s", (milliseconds, text) => {
  expect(duration(milliseconds)).toBe(text);
});

it.each([
  ["Open notepad", { title: "Open notepad", rest: "" }],
  ["\n  Log in \n\n1. go\n2. type\n", { title: "Log in", rest: "1. go\n2. type" }],
])("the title of %j is its first line", (instruction, parts) => {
  expect(titled(instruction)).toEqual(parts);
});
