package commandline

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// help shows what was asked for, and the flags of the default command where none was.
func help(options kong.HelpOptions, context *kong.Context) error {
	if context.Selected() != nil || context.Model.DefaultCmd == nil {
		return kong.DefaultHelpPrinter(options, context)
	}
	options.NoExpandSubcommands = !slices.ContainsFunc(context.Model.Children, func(n *kong.Node) bool { return !n.Leaf() })
	list := options
	list.Compact = true
	if err := kong.DefaultHelpPrinter(list, context); err != nil {
		return err
	}
	byDefault, err := kong.Trace(context.Kong, []string{context.Model.DefaultCmd.Name})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(context.Stdout); err != nil {
		return err
	}
	return kong.DefaultHelpPrinter(options, byDefault)
}

// describe adds to a setting's help what it is unless it is set, and its variable.
func (p Program) describe(value *kong.Value) string {
	if value.Flag == nil || own(value.Name) {
		return value.Help
	}
	var notes []string
	if value.HasDefault {
		notes = append(notes, "default "+value.Default)
	}
	if p.Prefix != "" {
		notes = append(notes, "$"+variable(p.Prefix, value.Name))
	}
	if notes == nil {
		return value.Help
	}
	return value.Help + " (" + strings.Join(notes, ", ") + ")"
}

// Version says what the running program was built from: the module's version, or the
// commit and whether the tree was changed, and the Go that built it.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "of an unknown version"
	}
	return version(info)
}

func version(info *debug.BuildInfo) string {
	text := info.Main.Version
	if text == "" || text == "(devel)" {
		text = "devel"
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				text += " " + s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				text += " (changed)"
			}
		}
	}
	return text + " " + info.GoVersion
}
