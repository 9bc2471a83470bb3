package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// Flags are the command line's settings: every key of the tree as --section.key,
// and the short names --source, --target, --admin, --map, --leave-out, --max-stall,
// --take-over, --log-level, --log-format and --config. It is used once, by one goroutine.
type Flags struct {
	set   *flag.FlagSet
	tree  tree
	layer layer
	file  string
}

// Bind adds the flags to a set, which may have others of the caller's under other
// names. Call Parse and then Load.
func Bind(set *flag.FlagSet) *Flags {
	f := &Flags{set: set, tree: newTree(), layer: layer{}}
	docs := comments(f.tree)
	byName, names := f.tree.names(func(path string) string { return path })
	for _, name := range names {
		k := byName[name]
		usage := firstSentence(docs[k.path])
		if name != k.path {
			usage = "short for --" + k.path
		}
		set.Var(&flagValue{flags: f, key: k, name: name}, name, usage)
	}
	set.StringVar(&f.file, configFlag, "", "the configuration `FILE` (or "+configEnv+"); none is needed")
	return f
}

// Parse reads args, which do not begin with the program's name or the verb, and
// returns what follows the flags. It writes nothing. Its error is flag.ErrHelp for
// -h and --help.
func (f *Flags) Parse(args []string) ([]string, error) {
	output := f.set.Output()
	f.set.SetOutput(io.Discard)
	usage := f.set.Usage
	f.set.Usage = func() {}
	err := f.set.Parse(args)
	f.set.SetOutput(output)
	f.set.Usage = usage
	if err != nil {
		return nil, f.explain(err)
	}
	rest := f.set.Args()
	if len(rest) > 0 && len(args) > len(rest) {
		last := args[len(args)-len(rest)-1]
		before := strings.TrimLeft(last, "-")
		k, is := f.tree.byPath[before]
		if _, err := parseBool(rest[0]); is && last != before && k.typ.Kind() == reflect.Bool && err == nil {
			return nil, fmt.Errorf("--%s %s: write --%s=%s", before, rest[0], before, rest[0])
		}
	}
	return rest, nil
}

// explain adds the nearest flag, and cuts a value off that may be a secret.
func (f *Flags) explain(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return err
	}
	text, _, _ := strings.Cut(err.Error(), "=")
	if name, is := strings.CutPrefix(text, "flag provided but not defined: -"); is {
		var names []string
		f.set.VisitAll(func(known *flag.Flag) { names = append(names, known.Name) })
		return fmt.Errorf("unknown flag --%s: did you mean --%s?", name, nearest(name, names))
	}
	return fmt.Errorf("reading the flags: %s", text)
}

// flagValue keeps the text of a flag for Load, so that errors are told together
// and flag's own never quotes a secret.
type flagValue struct {
	flags *Flags
	key   key
	name  string
}

// Set notes the text. Of most flags the last one counts; lists and databases add up,
// since to drop part of a map silently would leave data behind.
func (v *flagValue) Set(text string) error {
	before, there := v.flags.layer[v.key.path]
	if kind := v.key.typ.Kind(); !isRecords(v.key.typ) && there && before.text != "" && text != "" && (kind == reflect.Map || kind == reflect.Slice) {
		text = before.text + "," + text
	}
	v.flags.layer[v.key.path] = given{text: text, from: "--" + v.name}
	return nil
}

// String is the default that flag shows; it calls it on a zero value too.
func (v *flagValue) String() string {
	if v.flags == nil || v.name != v.key.path {
		return ""
	}
	return formatValue(v.flags.tree.flat(Default())[v.key.path])
}

// IsBoolFlag allows --cutover.unsafe without a value.
func (v *flagValue) IsBoolFlag() bool { return v.key.typ != nil && v.key.typ.Kind() == reflect.Bool }
