import preact from "@preact/preset-vite";
import { defineConfig } from "vitest/config";

// The page calls its own origin under /rpc and /auth. While developing, the
// dev server passes those on to a running controller.
const controller = process.env.SWANHERD_SERVER ?? "https://127.0.0.1:7443";
const proxy = { target: controller, changeOrigin: true, secure: false };

export default defineConfig({
  plugins: [preact()],
  build: { outDir: "../dist", emptyOutDir: true, sourcemap: false, target: "es2022" },
  test: { include: ["test/**/*.test.ts"] },
  server: { proxy: { "/rpc": proxy, "/auth": proxy } },
});
