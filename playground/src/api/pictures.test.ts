import { afterEach, beforeEach, expect, it, vi } from "vitest";

import { answering, failing } from "@/testing";
import type * as Client from "./client";
import type * as Pictures from "./pictures";

let client: typeof Client;
let pictures: typeof Pictures;

const shot = () => new Response(new Blob(["png"]), { headers: { ETag: '"1"', "X-Cursor": "0.5 0.25" } });
const revoked: string[] = [];

beforeEach(async () => {
  vi.resetModules(); // each test begins without pictures
  client = await import("./client");
  pictures = await import("./pictures");
  let made = 0;
  vi.spyOn(URL, "createObjectURL").mockImplementation(() => `blob:${++made}`);
  vi.spyOn(URL, "revokeObjectURL").mockImplementation((url) => void revoked.push(url));
});
afterEach(() => {
  revoked.length = 0;
  vi.unstubAllGlobals();
});

it("fetches a picture once, however often it is shown", async () => {
  const asked = answering(shot);
  expect(await Promise.all([pictures.picture("/a"), pictures.picture("/a")])).toEqual(["blob:1", "blob:1"]);
  expect(asked).toHaveLength(1);
});

it("tells nobody else the key", async () => {
  client.authorize("k-1", () => undefined);
  const asked = answering(shot);
  for (const address of ["https://pictures.example/a.webp", "http://127.0.0.1/x"]) {
    expect(await pictures.picture(address)).toBe(address);
  }
  expect(asked).toHaveLength(0);
});

it("asks again for what was not there", async () => {
  answering(failing(404, "screenshot_not_found"), shot);
  await expect(pictures.picture("/a")).rejects.toMatchObject({ code: "screenshot_not_found" });
  expect(await pictures.picture("/a")).toBe("blob:1");
});

it("keeps a bounded number, those that were shown last", async () => {
  answering(shot);
  await pictures.picture("/first");
  for (let number = 0; number < 79; number++) await pictures.picture(`/${number}`);
  await pictures.picture("/first");
  await pictures.picture("/more");
  await Promise.resolve();
  expect(revoked).toEqual(["blob:2"]);
});

it("knows the cursor of a preview, and whether the screen has changed", async () => {
  const asked = answering(shot, () => new Response(null, { status: 304 }));
  const first = await pictures.preview("t");
  expect(first).toMatchObject({ etag: '"1"', cursor: { x: 0.5, y: 0.25 } });
  expect(await pictures.preview("t", first)).toBeUndefined();
  expect(asked[1]?.headers.get("If-None-Match")).toBe('"1"');
});

it.each(["", "x y", "0.5", "NaN 1"])("shows no cursor for %j", async (header) => {
  answering(() => new Response(new Blob(["png"]), { headers: { "X-Cursor": header } }));
  expect((await pictures.preview("t"))?.cursor).toBeUndefined();
});
