import { afterEach, beforeEach, expect, it, vi } from "vitest";

import { answering, failing } from "@/testing";
import { authorize } from "./client";
import { forgetPictures, picture, preview } from "./pictures";

const shot = () => new Response(new Blob(["png"]), { headers: { ETag: '"1"', "X-Cursor": "0.5 0.25" } });
const revoked: string[] = [];

beforeEach(() => {
  let made = 0;
  vi.spyOn(URL, "createObjectURL").mockImplementation(() => `blob:${++made}`);
  vi.spyOn(URL, "revokeObjectURL").mockImplementation((url) => void revoked.push(url));
});
afterEach(async () => {
  forgetPictures();
  await Promise.resolve(); // they are let go of a moment later
  revoked.length = 0;
  authorize(undefined, () => undefined);
  vi.unstubAllGlobals();
});

it("fetches a picture once, however often it is shown", async () => {
  const asked = answering(shot);
  expect(await Promise.all([picture("/a"), picture("/a")])).toEqual(["blob:1", "blob:1"]);
  expect(asked).toHaveLength(1);
});

it("tells nobody else the key", async () => {
  authorize("k-1", () => undefined);
  const asked = answering(shot);
  for (const address of ["https://pictures.example/a.webp", "http://127.0.0.1/x"]) {
    expect(await picture(address)).toBe(address);
  }
  expect(asked).toHaveLength(0);
});

it("asks again for what was not there", async () => {
  answering(failing(404, "screenshot_not_found"), shot);
  await expect(picture("/a")).rejects.toMatchObject({ code: "screenshot_not_found" });
  expect(await picture("/a")).toBe("blob:1");
});

it("keeps a bounded number, those that were shown last", async () => {
  answering(shot);
  await picture("/first");
  for (let number = 0; number < 79; number++) await picture(`/${number}`);
  await picture("/first");
  await picture("/more");
  await Promise.resolve();
  expect(revoked).toEqual(["blob:2"]);
});

it("knows the cursor of a preview, and whether the screen has changed", async () => {
  const asked = answering(shot, () => new Response(null, { status: 304 }));
  const first = await preview("t");
  expect(first).toMatchObject({ etag: '"1"', cursor: { x: 0.5, y: 0.25 } });
  expect(await preview("t", first)).toBeUndefined();
  expect(asked[1]?.headers.get("If-None-Match")).toBe('"1"');
});

it.each(["", "x y", "0.5", "NaN 1"])("shows no cursor for %j", async (header) => {
  answering(() => new Response(new Blob(["png"]), { headers: { "X-Cursor": header } }));
  expect((await preview("t"))?.cursor).toBeUndefined();
});
