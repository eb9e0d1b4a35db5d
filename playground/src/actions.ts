/** Lybic actions: those of the agent in words, and those that a person's gestures become. */

export type Action = Record<string, unknown>;

const WHOLE = 10_000;
const WHEEL_STEP = 100;
/** Pixels that a pointer may move in a click. */
export const STEADY = 6;
/** Milliseconds after which a finger that stays in its place means something else. */
export const LONG_PRESS = 600;
/** The right button as the DOM counts. */
export const RIGHT = 2;
/** And those of Lybic. */
const BUTTONS: Record<number, string> = { 2: ":right", 4: ":middle" };
const OBJECTS = ["content", "keys", "key", "name", "packageName", "direction"];
const LONGEST = 200;

/** The name of what an action does, as the messages have it below `actions`. */
export function nameOf(action: Action): string {
  const type = String(action.type);
  return type === "mouse:click" ? type + (BUTTONS[Number(action.button)] ?? "") : type;
}

/** What it does that to: a text, a key, an app, seconds. */
export function objectOf(action: Action): string {
  if (action.type === "wait") return `${Number(action.duration) / 1000} s`;
  if (action.type === "mouse:scroll")
    return Number(action.stepVertical) > 0
      ? "↑"
      : Number(action.stepVertical) < 0
        ? "↓"
        : Number(action.stepHorizontal) > 0
          ? "→"
          : "←";
  const found = OBJECTS.map((name) => action[name]).find((value) => typeof value === "string");
  return found === undefined ? "" : found.length > LONGEST ? `${found.slice(0, LONGEST)}…` : found;
}

/** A place on the screen, in fractions of its width and height. */
export interface Place {
  x: number;
  y: number;
}

function at({ x, y }: Place, across = "x", down = "y"): Action {
  return { [across]: fraction(x), [down]: fraction(y) };
}

function fraction(part: number) {
  return { type: "/", numerator: Math.round(Math.min(1, Math.max(0, part)) * WHOLE), denominator: WHOLE };
}

/** What a person's pointer did, as a mouse or, on a phone, a finger does it. */
export function gesture(
  from: Place,
  to: Place,
  how: { moved: number; milliseconds: number; button: number; double: boolean; touch: boolean },
): Action {
  if (how.moved > STEADY) {
    const way = { ...at(from, "startX", "startY"), ...at(to, "endX", "endY") };
    return how.touch ? { type: "touch:drag", ...way } : { type: "mouse:drag", ...way, button: 1 };
  }
  if (how.touch) {
    const long = how.milliseconds > LONG_PRESS;
    return long ? { type: "touch:longPress", ...at(to), duration: 1000 } : { type: "touch:tap", ...at(to) };
  }
  if (how.double) return { type: "mouse:doubleClick", ...at(to), button: 1 };
  return { type: "mouse:click", ...at(to), button: [1, 4, 2][how.button] ?? 1 };
}

/** Lybic counts steps of the wheel up and to the right. */
export function wheel(place: Place, deltaX: number, deltaY: number): Action {
  const steps = (delta: number) => Math.sign(delta) * Math.ceil(Math.abs(delta) / WHEEL_STEP);
  return {
    type: "mouse:scroll",
    ...at(place),
    stepVertical: -steps(deltaY) || 0,
    stepHorizontal: steps(deltaX) || 0,
  };
}

export function typing(content: string): Action {
  return { type: "keyboard:type", content, treatNewLineAsEnter: content.includes("\n") };
}

/** Keys as xdotool names them, with + between them. */
export function pressing(keys: string): Action {
  return { type: "keyboard:hotkey", keys };
}
