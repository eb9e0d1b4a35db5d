/** Screenshots: fetched with the API key, shown from memory, the last ones kept. */

import { ApiError, authorizedFetch } from "./client";

const MOST = 80;
const kept = new Map<string, Promise<string>>();

/** A URL that an image can show. Throws `ApiError`, such as for one that is not kept any more. */
export function picture(address: string): Promise<string> {
  if (!address.startsWith("/")) return Promise.resolve(address); // the sandbox service's own: no key for it
  const known = kept.get(address) ?? load(address);
  kept.delete(address); // it is the newest now
  kept.set(address, known);
  for (const [oldest, url] of kept) {
    if (kept.size <= MOST) break;
    kept.delete(oldest);
    url.then(URL.revokeObjectURL, () => undefined);
  }
  return known;
}

async function load(address: string): Promise<string> {
  try {
    const response = await authorizedFetch(address);
    if (!response.ok) throw await ApiError.read(response);
    return URL.createObjectURL(await response.blob());
  } catch (error) {
    kept.delete(address); // it may be there later
    throw error;
  }
}

export interface Preview {
  url: string;
  etag: string | null;
  /** Fractions of the screen's width and height. */
  cursor: { x: number; y: number } | undefined;
}

/**
 * The screen of a task's sandbox as it is now; undefined if it has not changed since `before`. Who shows it
 * revokes its URL.
 */
export async function preview(taskId: string, before?: Preview): Promise<Preview | undefined> {
  const headers: Record<string, string> = before?.etag ? { "If-None-Match": before.etag } : {};
  const address = `/api/agent/task/${encodeURIComponent(taskId)}/preview`;
  const response = await authorizedFetch(address, { headers, cache: "no-store" });
  if (response.status === 304) return undefined;
  if (!response.ok) throw await ApiError.read(response);
  const [x, y] = (response.headers.get("X-Cursor") ?? "").split(" ").map(Number);
  return {
    url: URL.createObjectURL(await response.blob()),
    etag: response.headers.get("ETag"),
    cursor: x !== undefined && y !== undefined && x >= 0 && y >= 0 ? { x, y } : undefined,
  };
}
