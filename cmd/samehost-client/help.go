package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"
)

// printHelp prints the help of the program or of one command onto one screen, 24 lines of 80 columns: what it is
// for, its commands and flags in one line each, and examples. Those of a command
// stand in its tag "example", with "; " between.
func printHelp(_ kong.HelpOptions, ctx *kong.Context) error {
	node, usage := ctx.Selected(), "samehost-client COMMAND [flags]; COMMAND --help tells more"
	if node == nil {
		node = ctx.Model.Node
	} else {
		usage = "samehost-client " + node.Summary()
	}
	about, after, _ := strings.Cut(node.Help, "\n\n")
	w := tabwriter.NewWriter(ctx.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "Usage: %s\n%s\n\n", usage, about)
	for _, c := range node.Children {
		fmt.Fprintf(w, "  %s\t%s\n", c.Name, c.Help)
	}
	if len(node.Children) > 0 {
		fmt.Fprintln(w)
	}
	flags := node.AllFlags(true)
	slices.Reverse(flags) // its own first
	for _, f := range slices.Concat(flags...) {
		name := "--" + f.Name
		if f.Short != 0 {
			name = fmt.Sprintf("-%c, %s", f.Short, name)
		}
		if !f.IsBool() {
			name += " " + f.FormatPlaceHolder()
		}
		fmt.Fprintf(w, "  %s\t%s\n", name, f.Help)
	}
	fmt.Fprintln(w, "\nExamples:")
	if examples := node.Tag.Get("example"); examples != "" {
		for e := range strings.SplitSeq(examples, "; ") {
			fmt.Fprintf(w, "  samehost-client %s\n", e)
		}
	}
	if after != "" {
		fmt.Fprintln(w, after)
	}
	return w.Flush()
}
