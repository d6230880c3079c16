// Checks compose files with the library that `docker compose config` is made of.
//
//	check FILE -> exit 0, or the problem on stderr and exit 1
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	options, err := cli.NewProjectOptions(
		os.Args[1:], cli.WithOsEnv, cli.WithDefaultProfiles(), cli.WithConsistency(true),
	)
	if err == nil {
		_, err = options.LoadProject(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
