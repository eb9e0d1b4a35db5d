/** The keyboard's place in the page, where what had it is gone. */

import { onScopeDispose } from "vue";

/**
 * When a control vanishes that had the focus, such as a button that was pressed, what it stood in takes it: the
 * nearest part of the page that is still there and can have it. Else the keyboard would begin at the top again.
 */
export function keepFocus(): void {
  let control: Element | null = null;
  let around: HTMLElement[] = [];

  function focused(event: FocusEvent): void {
    control = event.target as Element;
    around = [];
    for (let part = holder(control); part; part = holder(part)) around.push(part);
  }

  function mend(): void {
    if (!control || control.isConnected || document.activeElement !== document.body) return;
    const part = around.find((one) => one.isConnected) ?? document.querySelector("main");
    part?.focus({ preventScroll: true });
  }

  // Whoever gives the focus to something else, as a dialog does at its end, comes first.
  const observer = new MutationObserver(() => {
    if (control && !control.isConnected) setTimeout(mend);
  });
  observer.observe(document.body, { childList: true, subtree: true });
  document.addEventListener("focusin", focused);
  onScopeDispose(() => {
    observer.disconnect();
    document.removeEventListener("focusin", focused);
  });
}

function holder(part: Element): HTMLElement | null {
  return part.parentElement?.closest<HTMLElement>("[tabindex]") ?? null;
}
