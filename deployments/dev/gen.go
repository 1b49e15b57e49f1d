package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The generators are pinned in a module of their own: their dependencies would
// raise versions in the product's.
const toolsModule = "deployments/dev/tools/go.mod"

func buf(ctx context.Context, args ...string) error {
	return command(ctx, "", append([]string{"go", "tool", "-modfile=" + toolsModule, "buf"}, args...)...)
}

func runGen(ctx context.Context, _ []string) error {
	return generate(ctx, ".")
}

func generate(ctx context.Context, out string) error {
	return buf(ctx, "generate", "--template", "proto/buf.gen.yaml", "--path", "proto/swanherd", "-o", out)
}

// checkGenerated fails when the committed code is not what the protos give.
func checkGenerated(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "swanherd-gen-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := generate(ctx, dir); err != nil {
		return err
	}
	var stale []string
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		have, err := os.ReadFile(rel)
		if err != nil || string(have) != string(want) {
			stale = append(stale, rel)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(stale) > 0 {
		return fmt.Errorf("generated code is not current: %s; run `go run ./deployments/dev gen`", strings.Join(stale, ", "))
	}
	return nil
}

func runLint(ctx context.Context, _ []string) error {
	return errors.Join(
		checkFormat(ctx),
		command(ctx, "", "go", "vet", "./..."),
		command(ctx, "", "go", "vet", "-tags", "tpm", "./edge/...", "./deployments/tpm"),
		buf(ctx, "lint"),
		checkBreaking(ctx),
		checkGenerated(ctx),
	)
}

func checkFormat(ctx context.Context) error {
	files, err := exec.CommandContext(ctx, "git", "ls-files", "*.go").Output()
	if err != nil {
		return fmt.Errorf("git ls-files: %w", err)
	}
	args := append([]string{"-l"}, strings.Fields(string(files))...)
	out, err := exec.CommandContext(ctx, "gofmt", args...).Output()
	if err != nil {
		return fmt.Errorf("gofmt: %w", err)
	}
	if bad := strings.Fields(string(out)); len(bad) > 0 {
		return fmt.Errorf("not formatted: %s; run gofmt -w on them", strings.Join(bad, " "))
	}
	return nil
}

// checkBreaking compares the protos with those of the newest release tag;
// before the first release there is nothing to break.
func checkBreaking(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--abbrev=0", "--match", "v*").Output()
	tag := strings.TrimSpace(string(out))
	if err != nil || tag == "" {
		fmt.Println("buf breaking: no release tag yet, nothing to compare with")
		return nil
	}
	return buf(ctx, "breaking", "--against", ".git#tag="+tag)
}
