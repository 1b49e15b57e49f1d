import { defineConfig } from "@playwright/test";

// One demonstration, one worker: the tests stop and kill its programs.
export default defineConfig({
  testDir: "e2e",
  globalSetup: "./e2e/setup.ts",
  workers: 1,
  forbidOnly: true,
  timeout: 45_000,
  reporter: [["list"]],
  use: {
    ignoreHTTPSErrors: true, // the demonstration's controller makes its own authority
    screenshot: "only-on-failure",
    launchOptions: {
      executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ],
    },
  },
});
