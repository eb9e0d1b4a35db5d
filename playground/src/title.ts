/** What the view that is shown is called. */

import { ref, watchEffect } from "vue";

/** The title of the tab, and of the page's main part: it is told to whoever can't see that another view has come. */
export const title = ref("");

export function useTitle(name: () => string): void {
  watchEffect(() => (title.value = name()));
}
