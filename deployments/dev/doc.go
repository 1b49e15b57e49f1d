// Command dev runs the project's tasks: test, lint, gen, ui, bench, fuzz and
// so on. It is a Go program so that a clone needs nothing but Go to start:
//
//	go run ./deployments/dev          # lists the tasks
//	go run ./deployments/dev test     # sets up what it needs, runs all tests
//
// Tasks run from the root of the repository and print each command before
// they run it, so that any step can be repeated by hand.
package main
