/** The sandboxes that the caller's credentials show. */

import { defineStore } from "pinia";
import { ref, shallowRef } from "vue";

import { api, ApiError, data, type Sandbox } from "@/api/client";
import { useCredentials } from "./credentials";

export const useSandboxes = defineStore("sandboxes", () => {
  const credentials = useCredentials();
  const shown = shallowRef<Sandbox[]>([]);
  const loaded = ref(false);
  const error = shallowRef<ApiError>();

  async function refresh(): Promise<void> {
    try {
      const body = { authentication: credentials.authentication };
      shown.value = (await data(api.POST("/api/sandbox/list", { body }))).sandboxes;
      error.value = undefined;
    } catch (problem) {
      error.value = ApiError.of(problem);
    }
    loaded.value = true;
  }

  /** Makes one and gives its id. Throws `ApiError`. */
  async function create(name: string, shape: string, minutes: number): Promise<string> {
    const body = {
      name: name || undefined,
      shape: shape || undefined,
      maxLifeSeconds: minutes * 60,
      authentication: credentials.authentication,
    };
    const made = await data(api.POST("/api/sandbox/create", { body }));
    await refresh();
    return made.sandbox_id;
  }

  /** Throws `ApiError`. */
  async function remove(sandboxId: string): Promise<void> {
    const body = { sandbox_id: sandboxId, authentication: credentials.authentication };
    await data(api.POST("/api/sandbox/delete", { body }));
    await refresh();
  }

  return { shown, loaded, error, refresh, create, remove };
});
