import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { effectScope, type EffectScope } from "vue";

import type { Action } from "./actions";
import { DOUBLE, usePointer } from "./pointer";

let scope: EffectScope;
let acted: Action[];
let screen: HTMLElement;

function shows(touch: boolean): void {
  const handlers = scope.run(() =>
    usePointer(
      () => touch,
      (action) => acted.push(action),
    ),
  );
  for (const [name, handler] of Object.entries(handlers ?? {})) {
    screen.addEventListener(name, handler as (event: Event) => void);
  }
}

beforeEach(() => {
  vi.useFakeTimers();
  scope = effectScope();
  acted = [];
  screen = document.createElement("div");
  screen.setPointerCapture = () => undefined;
  screen.getBoundingClientRect = () => new DOMRect(0, 0, 1000, 500);
});
afterEach(() => {
  scope.stop();
  vi.useRealTimers();
});

function point(type: string, x: number, y: number, how: PointerEventInit = {}): void {
  screen.dispatchEvent(new PointerEvent(type, { clientX: x, clientY: y, isPrimary: true, ...how }));
}

function press(x: number, y: number, button = 0): void {
  point("pointerdown", x, y, { button });
}

function release(x: number, y: number, button = 0): void {
  point("pointerup", x, y, { button });
}

function click(x: number, y: number, button = 0): void {
  press(x, y, button);
  release(x, y, button);
}

function turn(deltaY: number): void {
  screen.dispatchEvent(new WheelEvent("wheel", { deltaY, clientX: 500, clientY: 250 }));
}

const types = () => acted.map((action) => action.type);

it("tells a click when it can't become a double click any more", () => {
  shows(false);
  click(500, 250);
  vi.advanceTimersByTime(DOUBLE - 1);
  expect(acted).toEqual([]);
  vi.advanceTimersByTime(1);
  expect(acted).toMatchObject([{ type: "mouse:click", x: { numerator: 5000 }, y: { numerator: 5000 } }]);
});

it("tells one double click, also of an unsteady hand", () => {
  shows(false);
  click(500, 250);
  press(502, 251);
  release(503, 251);
  vi.runAllTimers();
  expect(types()).toEqual(["mouse:doubleClick"]);
});

it.each<[string, () => void, string]>([
  [
    "a click elsewhere",
    () => {
      click(100, 100);
    },
    "mouse:click",
  ],
  [
    "a right click",
    () => {
      click(500, 250, 2);
    },
    "mouse:click",
  ],
  [
    "a drag",
    () => {
      press(500, 250);
      release(700, 250);
    },
    "mouse:drag",
  ],
])("a click that %s follows at once is not lost", (_, follows, type) => {
  shows(false);
  click(500, 250);
  follows();
  vi.runAllTimers();
  expect(types()).toEqual(["mouse:click", type]);
  expect(acted[0]).toMatchObject({ button: 1, x: { numerator: 5000 } });
});

it("many turns of the wheel are one", () => {
  shows(false);
  turn(40);
  turn(160);
  vi.runAllTimers();
  expect(acted).toMatchObject([{ type: "mouse:scroll", stepVertical: -2 }]);
});

it("a phone is tapped at once, and has no wheel", () => {
  shows(true);
  click(500, 250);
  click(500, 250);
  turn(100);
  expect(types()).toEqual(["touch:tap", "touch:tap"]);
});

it.each<[string, boolean, number, object]>([
  ["is a right click on a desktop", false, 0, { type: "mouse:click", button: 2 }],
  ["that moves is a drag", false, 100, { type: "mouse:drag", button: 1 }],
  ["is what it is on a phone", true, 0, { type: "touch:longPress" }],
])("a finger's long press %s", (_, phone, way, action) => {
  shows(phone);
  point("pointerdown", 500, 250, { pointerType: "touch" });
  vi.advanceTimersByTime(700);
  point("pointerup", 500 + way, 250, { pointerType: "touch" });
  expect(acted).toMatchObject([action]);
});

it.each(["pointercancel", "pointerdown"])(
  "a second finger and a gesture of the browser are no drag: %s",
  (type) => {
    shows(false);
    point("pointerdown", 100, 100);
    point(type, 700, 400, { isPrimary: false });
    point("pointerup", 700, 400, { isPrimary: false });
    point("pointerup", 120, 120);
    vi.runAllTimers();
    expect(acted).toEqual([]);
  },
);

it("nothing is told after the screen is gone", () => {
  shows(false);
  click(500, 250);
  turn(100);
  scope.stop();
  vi.runAllTimers();
  expect(acted).toEqual([]);
});
