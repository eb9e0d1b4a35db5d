/** Who looks: nobody in particular where no API keys are needed, else whoever has one. */

import { defineStore } from "pinia";
import { computed, ref, shallowRef } from "vue";

import { api, ApiError, authorize, data, type Info } from "@/api/client";

const PLACE = "guiagent.key";

export const useSession = defineStore("session", () => {
  const info = shallowRef<Info>();
  const error = shallowRef<ApiError>();
  const refused = ref(false);
  const keyed = computed(() => info.value?.api_keys === "required");

  /** Asks the server what it is, with the tab's key if it has one. A reload keeps the key, a new tab has none. */
  async function start(): Promise<void> {
    authorize(sessionStorage.getItem(PLACE) ?? undefined, () => (refused.value = true));
    error.value = undefined;
    try {
      info.value = await data(api.GET("/api/agent/info"));
    } catch (problem) {
      error.value = ApiError.of(problem);
      refused.value = [401, 403].includes(error.value.status);
    }
  }

  // Both begin the page anew, so that nothing is left in memory for whoever comes next.

  /** Throws `ApiError` for a key that is not good. */
  async function signIn(key: string): Promise<void> {
    authorize(key, () => undefined);
    await data(api.GET("/api/agent/info"));
    sessionStorage.setItem(PLACE, key);
    location.reload();
  }

  function signOut(): void {
    sessionStorage.removeItem(PLACE);
    location.reload();
  }

  return { info, error, refused, keyed, start, signIn, signOut };
});
