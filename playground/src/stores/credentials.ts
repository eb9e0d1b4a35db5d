/** Credentials for Lybic and the model that tasks bring with them. In this tab's memory, and nowhere else. */

import { defineStore } from "pinia";
import { computed, reactive } from "vue";

import type { LybicAuthentication, NewTask } from "@/api/client";

export const useCredentials = defineStore("credentials", () => {
  const given = reactive({ lybicKey: "", lybicOrg: "", lybicEndpoint: "", modelKey: "" });

  const authentication = computed<LybicAuthentication | undefined>(() =>
    given.lybicKey && given.lybicOrg
      ? { api_key: given.lybicKey, org_id: given.lybicOrg, api_endpoint: given.lybicEndpoint || undefined }
      : undefined,
  );

  /** As they stand in a request for a task; the server's own are used for those that are missing. */
  const forTask = computed<Pick<NewTask, "authentication" | "ark_apikey">>(() => ({
    authentication: authentication.value,
    ark_apikey: given.modelKey || undefined,
  }));

  return { given, authentication, forTask };
});
