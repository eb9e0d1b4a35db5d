/** Who looks: nobody in particular where no API keys are needed, else whoever has one. */

import { defineStore } from "pinia";
import { computed, ref, shallowRef } from "vue";

import { api, ApiError, authorize, data, type Info } from "@/api/client";
import { forgetPictures } from "@/api/pictures";
import { useCredentials } from "./credentials";

const PLACE = "guiagent.key";

export const useSession = defineStore("session", () => {
  const info = shallowRef<Info>();
  const error = shallowRef<ApiError>();
  const refused = ref(false);
  const keyed = computed(() => info.value?.api_keys === "required");

  /** Asks the server what it is, with the tab's key if it has one. A reload keeps the key, a new tab has none. */
  async function start(): Promise<void> {
    await ask(sessionStorage.getItem(PLACE) ?? undefined);
  }

  /** Whether the key is good. */
  async function signIn(key: string): Promise<boolean> {
    await ask(key);
    if (!info.value) return false;
    sessionStorage.setItem(PLACE, key);
    return true;
  }

  async function ask(key: string | undefined): Promise<void> {
    authorize(key, () => (refused.value = true));
    error.value = undefined;
    try {
      info.value = await data(api.GET("/api/agent/info"));
      refused.value = false;
    } catch (problem) {
      error.value = ApiError.of(problem);
      refused.value = [401, 403].includes(error.value.status);
    }
  }

  function signOut(): void {
    sessionStorage.removeItem(PLACE);
    authorize(undefined, () => undefined);
    info.value = undefined;
    forgetPictures();
    useCredentials().forget();
    refused.value = true;
  }

  return { info, error, refused, keyed, start, signIn, signOut };
});
