package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
)

const uiDir = "dashboard/ui"

func setupUI(ctx context.Context) error {
	return command(ctx, uiDir, "npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
}

func runUI(ctx context.Context, _ []string) error {
	if err := setupUI(ctx); err != nil {
		return err
	}
	return command(ctx, uiDir, "npm", "run", "build")
}

// testUI generates the client, checks the sources, builds them, and proves that
// what is committed is what they give; then the browser tests run.
func testUI(ctx context.Context) error {
	for _, script := range []string{"gen", "check", "test", "build"} {
		if err := command(ctx, uiDir, "npm", "run", script); err != nil {
			return err
		}
	}
	out, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--", "dashboard/dist", uiDir+"/src/gen").Output()
	if err != nil {
		return fmt.Errorf("git status: %w", err)
	}
	if len(out) > 0 {
		fmt.Fprint(os.Stderr, string(out))
		return fmt.Errorf("dashboard/dist is not what dashboard/ui builds, or its src/gen not what proto/ gives; commit the files above, which this run made anew")
	}
	return command(ctx, uiDir, "npm", "run", "e2e")
}
