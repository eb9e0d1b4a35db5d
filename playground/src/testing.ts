/** What the tests share: a server that answers as they say. */

import { vi } from "vitest";

type Answer = (request: Request) => Response | Promise<Response>;

/** Lets `fetch` be answered in turn, the last answer for all further requests; gives the requests. */
export function answering(...answers: Answer[]): Request[] {
  const asked: Request[] = [];
  vi.stubGlobal("fetch", (request: Request) => {
    asked.push(request);
    const answer = answers[Math.min(asked.length, answers.length) - 1];
    if (!answer) throw new Error("nothing was to be asked");
    return Promise.resolve().then(() => answer(request));
  });
  return asked;
}

export function json(body: unknown, status = 200, headers: Record<string, string> = {}): Answer {
  return () => Response.json(body, { status, headers });
}

export function failing(status: number, code: string, message = code, headers = {}): Answer {
  return json(
    { success: false, error: { code, message }, detail: message, request_id: "r" },
    status,
    headers,
  );
}

export function unreachable(): Answer {
  return () => Promise.reject(new TypeError("Failed to fetch"));
}
