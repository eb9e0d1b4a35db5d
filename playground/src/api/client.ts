/** Calls of the HTTP API, typed by its OpenAPI document; every failure is an `ApiError`. */

import createClient from "openapi-fetch";

import type { components, paths } from "./schema";

type Schemas = components["schemas"];
export type JobStatus = Schemas["JobStatus"];
export type TaskSummary = Schemas["TaskSummary"];
/** Without the conversation, which a page has no use for. */
export type Task = Required<Omit<Schemas["TaskAnswer"], "llm_context">>;
export type Step = Schemas["StepView"];
export type StepsPage = Schemas["StepsAnswer"];
export type Mark = Step["marks"][number];
export type TaskEvent = Schemas["EventView"];
export type Info = Schemas["InfoAnswer"];
export type NewTask = Schemas["RunAgentRequest"];
export type Sandbox = Schemas["SandboxView"];
export type LybicAuthentication = Schemas["LybicAuthentication"];

/** What the server answered instead of success; `offline` if it did not answer. */
export class ApiError extends Error {
  readonly code: string;
  readonly status: number;
  /** Seconds after which it may be tried again, where the server says so. */
  readonly retryAfter: number | undefined;

  constructor(code: string, message: string, status = 0, retryAfter?: number) {
    super(message);
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may succeed a little later. */
  get passing(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }

  /** Whether credentials are missing, or not good. */
  get wantsCredentials(): boolean {
    return ["missing_credentials", "credentials_rejected"].includes(this.code);
  }

  static of(error: unknown, response?: Response): ApiError {
    if (error instanceof ApiError) return error;
    if (!response) return new ApiError("offline", error instanceof Error ? error.message : String(error));
    const said = (error as Partial<Schemas["ErrorAnswer"]> | undefined)?.error;
    const seconds = Number(response.headers.get("Retry-After"));
    const message = said?.message ?? `${response.status} ${response.statusText}`.trim();
    return new ApiError(said?.code ?? "unexpected", message, response.status, seconds || undefined);
  }

  /** The error of an answer that is no success. */
  static async read(response: Response): Promise<ApiError> {
    const body: unknown = await response.json().catch(() => undefined);
    return ApiError.of(body, response);
  }
}

/** Longer than the server waits for others: what has no answer by then has none. */
const LONGEST = 30_000;

let key: string | undefined;
let refused: () => void = () => undefined;

/** Sends the key with every request from now on, and tells when one is refused for want of a good one. */
export function authorize(newKey: string | undefined, whenRefused: () => void): void {
  key = newKey;
  refused = whenRefused;
}

/**
 * `fetch` with the key. Only for paths of this server: nobody else may see it. Without a signal of its own it
 * ends after 30 seconds.
 */
export async function authorizedFetch(input: string | Request, init: RequestInit = {}): Promise<Response> {
  const signal = init.signal ?? AbortSignal.timeout(LONGEST);
  const request = new Request(input, { ...init, signal });
  if (key !== undefined) request.headers.set("Authorization", `Bearer ${key}`);
  const response = await fetch(request).catch((error: unknown) => {
    if (init.signal?.aborted) throw error;
    throw ApiError.of(error);
  });
  if (response.status === 401) refused();
  return response;
}

export const api = createClient<paths>({ baseUrl: location.origin, fetch: authorizedFetch });

/** What a call answered. Throws `ApiError`. */
export async function data<T>(call: Promise<{ data?: T; error?: unknown; response: Response }>): Promise<T> {
  const { data, error, response } = await call.catch((error: unknown) => {
    throw ApiError.of(error);
  });
  if (data === undefined) throw ApiError.of(error, response);
  return data;
}

/** Makes a request that is sent again one and the same. `crypto.randomUUID` is missing on plain http. */
export function newIdempotencyKey(): string {
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("-");
}
