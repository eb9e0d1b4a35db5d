/** The time, for what is shown of it. */

import { onScopeDispose, ref, type Ref } from "vue";

/** Milliseconds since 1970, once a second. */
export function useNow(): Ref<number> {
  const now = ref(Date.now());
  const timer = setInterval(() => (now.value = Date.now()), 1000);
  onScopeDispose(() => {
    clearInterval(timer);
  });
  return now;
}
