// Package help prints the help of our own commands so that it fits one screen, 24 lines of 80 columns. Each program's
// own test holds it to that.
package help

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"
)

// Print is a kong.HelpPrinter: what the program or the command is for, its commands, arguments and flags in one
// line each, and examples. Commands of one kong.Group share a line with the group's title. Those of a command stand in its tag "example", with "; " between; those of the program
// are in its description, after the first empty line.
func Print(_ kong.HelpOptions, ctx *kong.Context) error {
	program := ctx.Model.Name
	node, usage := ctx.Selected(), program+" COMMAND [flags]; COMMAND --help tells more"
	if node == nil {
		node = ctx.Model.Node
	} else {
		usage = program + " " + node.Summary()
	}
	about, after, _ := strings.Cut(node.Help, "\n\n")
	w := tabwriter.NewWriter(ctx.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "Usage: %s\n%s\n\n", usage, about)
	for i, c := range node.Children {
		names, title := c.Name, c.Help
		if c.Group != nil {
			if slices.ContainsFunc(node.Children[:i], func(b *kong.Node) bool { return b.Group != nil && b.Group.Key == c.Group.Key }) {
				continue // told with the first of its group
			}
			for _, b := range node.Children[i+1:] {
				if b.Group != nil && b.Group.Key == c.Group.Key {
					names += ", " + b.Name
				}
			}
			title = c.Group.Title
		}
		fmt.Fprintf(w, "  %s\t%s\n", names, title)
	}
	for _, a := range node.Positional {
		fmt.Fprintf(w, "  %s\t%s\n", a.Summary(), a.Help)
	}
	if len(node.Children)+len(node.Positional) > 0 {
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
			fmt.Fprintf(w, "  %s %s\n", program, e)
		}
	}
	if after != "" {
		fmt.Fprintln(w, after)
	}
	return w.Flush()
}
