import { fileURLToPath } from "node:url";

import vue from "@vitejs/plugin-vue";
import { defineConfig } from "vitest/config";

// `npm run dev` shows the page as it is written, over an API that runs elsewhere.
const api = process.env.API_URL ?? "http://localhost:5000";

export default defineConfig({
  plugins: [vue()],
  resolve: { alias: { "@": fileURLToPath(new URL("src", import.meta.url)) } },
  build: {
    outDir: "../api/static",
    emptyOutDir: true,
    assetsInlineLimit: 0, // the page's policy allows no data: scripts or styles
    modulePreload: { polyfill: false },
  },
  // The API refuses pages of other origins: to it, this one is its own.
  server: { proxy: { "/api": { target: api, changeOrigin: true, headers: { origin: api } } } },
  test: { environment: "happy-dom", include: ["src/**/*.test.ts"], restoreMocks: true },
});
