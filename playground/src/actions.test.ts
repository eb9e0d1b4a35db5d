import { describe, expect, it } from "vitest";

import { gesture, nameOf, objectOf, pressing, typing, wheel } from "./actions";

const here = { x: 0.25, y: 0.5 };
const there = { x: 1, y: 0 };
const length = (numerator: number) => ({ type: "/", numerator, denominator: 10_000 });
const calm = { moved: 0, milliseconds: 80, button: 0, double: false, touch: false };

describe("a person's gesture", () => {
  it.each([
    ["a click", {}, { type: "mouse:click", x: length(2500), y: length(5000), button: 1 }],
    ["a right click", { button: 2 }, { type: "mouse:click", x: length(2500), y: length(5000), button: 2 }],
    ["a middle click", { button: 1 }, { type: "mouse:click", x: length(2500), y: length(5000), button: 4 }],
    [
      "a double click",
      { double: true },
      { type: "mouse:doubleClick", x: length(2500), y: length(5000), button: 1 },
    ],
    ["a tap", { touch: true }, { type: "touch:tap", x: length(2500), y: length(5000) }],
    [
      "a long press",
      { touch: true, milliseconds: 900 },
      { type: "touch:longPress", x: length(2500), y: length(5000), duration: 1000 },
    ],
  ])("%s", (_, how, action) => {
    expect(gesture(here, here, { ...calm, ...how })).toEqual(action);
  });

  it("is a drag when it moved", () => {
    const way = { startX: length(2500), startY: length(5000), endX: length(10_000), endY: length(0) };
    expect(gesture(here, there, { ...calm, moved: 50 })).toEqual({ type: "mouse:drag", ...way, button: 1 });
    expect(gesture(here, there, { ...calm, moved: 50, touch: true })).toEqual({ type: "touch:drag", ...way });
  });

  it("stays on the screen", () => {
    expect(gesture({ x: -1, y: 2 }, { x: -1, y: 2 }, calm)).toMatchObject({
      x: length(0),
      y: length(10_000),
    });
  });
});

it("the wheel counts steps up and to the right", () => {
  expect(wheel(here, 0, 250)).toMatchObject({ stepVertical: -3, stepHorizontal: 0 });
  expect(wheel(here, 120, -100)).toMatchObject({ stepVertical: 1, stepHorizontal: 2 });
});

it("a new line that is typed is the Enter key", () => {
  expect(typing("a\n")).toEqual({ type: "keyboard:type", content: "a\n", treatNewLineAsEnter: true });
  expect(typing("a").treatNewLineAsEnter).toBe(false);
});

it.each([
  [{ type: "mouse:click", button: 2 }, "mouse:click:right", ""],
  [{ type: "mouse:click", button: 1 }, "mouse:click", ""],
  [pressing("ctrl+c"), "keyboard:hotkey", "ctrl+c"],
  [{ type: "wait", duration: 1500 }, "wait", "1.5 s"],
  [{ type: "mouse:scroll", stepVertical: -5 }, "mouse:scroll", "↓"],
  [{ type: "mouse:scroll", stepVertical: 0, stepHorizontal: 5 }, "mouse:scroll", "→"],
  [{ type: "os:startAppByName", name: "Maps" }, "os:startAppByName", "Maps"],
  [{ type: "future:thing" }, "future:thing", ""],
  [{}, "undefined", ""],
])("%j in words", (action, name, object) => {
  expect([nameOf(action), objectOf(action)]).toEqual([name, object]);
});

it("a long text is cut", () => {
  expect(objectOf(typing("x".repeat(5000)))).toHaveLength(201);
});
