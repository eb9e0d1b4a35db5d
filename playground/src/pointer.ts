/** A person's pointer over a screen: what it does there becomes actions. */

import { onScopeDispose } from "vue";

import { type Action, gesture, LONG_PRESS, type Place, RIGHT, STEADY, wheel } from "@/actions";

/** Milliseconds in which a click may become a double click, and turns of the wheel one. */
export const DOUBLE = 250;

/**
 * Handlers for the element that shows the screen. A click is told when it is clear that it will be no double
 * click; whatever else is done meanwhile comes after it.
 */
export function usePointer(touch: () => boolean, act: (action: Action) => void) {
  let down: { event: PointerEvent; place: Place; at: number } | undefined;
  let click: { event: PointerEvent; told: () => void; timer: ReturnType<typeof setTimeout> } | undefined;
  let turned: { place: Place; x: number; y: number; timer: ReturnType<typeof setTimeout> } | undefined;

  onScopeDispose(() => {
    clearTimeout(click?.timer);
    clearTimeout(turned?.timer);
  });

  function pointerdown(event: PointerEvent): void {
    if (!event.isPrimary) {
      down = undefined; // two fingers mean nothing here
      return;
    }
    (event.currentTarget as HTMLElement).setPointerCapture(event.pointerId);
    down = { event, place: placeOf(event), at: Date.now() };
  }

  function pointercancel(): void {
    down = undefined;
  }

  function pointerup(event: PointerEvent): void {
    if (!down) return;
    const { place, at, event: pressed } = down;
    down = undefined;
    const moved = distance(pressed, event);
    const to = placeOf(event);
    const milliseconds = Date.now() - at;
    // A finger has one button: on a desktop it presses the other one by staying.
    const stayed = pressed.pointerType === "touch" && milliseconds > LONG_PRESS;
    const button = stayed ? RIGHT : pressed.button;
    const told = (double: boolean) => {
      act(gesture(place, to, { moved, milliseconds, button, double, touch: touch() }));
    };

    const first = click;
    clearTimeout(first?.timer);
    click = undefined;
    const plain = !touch() && button === 0 && moved <= STEADY;
    if (plain && first && distance(first.event, pressed) <= STEADY) {
      told(true);
      return;
    }
    first?.told();
    if (!plain) {
      told(false);
      return;
    }
    const alone = () => {
      click = undefined;
      told(false);
    };
    click = { event, told: alone, timer: setTimeout(alone, DOUBLE) };
  }

  function wheeled(event: WheelEvent): void {
    if (touch()) return;
    event.preventDefault();
    turned ??= {
      place: placeOf(event),
      x: 0,
      y: 0,
      timer: setTimeout(() => {
        if (turned) act(wheel(turned.place, turned.x, turned.y));
        turned = undefined;
      }, DOUBLE),
    };
    turned.x += event.deltaX;
    turned.y += event.deltaY;
  }

  function contextmenu(event: Event): void {
    event.preventDefault();
  }

  return { pointerdown, pointerup, pointercancel, wheel: wheeled, contextmenu };
}

function placeOf(event: MouseEvent): Place {
  const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
  return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
}

function distance(one: MouseEvent, other: MouseEvent): number {
  return Math.hypot(other.clientX - one.clientX, other.clientY - one.clientY);
}
