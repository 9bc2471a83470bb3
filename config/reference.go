package config

import (
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Setting is what there is to say about one key, for pages and completions.
type Setting struct {
	Path    string   // "sync.workers", which is its flag too
	Kind    string   // what its value is: text, secret, number, duration, …
	Default string   // as a flag would have it; empty for nothing
	Choices []string // the only values, where there are few
	Flags   []string // all of them, without dashes, Path the first
	Env     []string // all variables, that of Path the first
	Text    string   // what example.yaml says of it, in one line
	Live    string   // how it changes while the sidecar runs; empty: it does not
}

// Settings returns all keys, in the order of example.yaml.
func Settings() []Setting {
	t := newTree()
	docs, defaults := comments(t), t.flat(Default())
	list := make([]Setting, 0, len(t.keys))
	for _, k := range t.keys {
		list = append(list, Setting{
			Path: k.path, Kind: kind(k.typ), Default: formatValue(defaults[k.path]), Choices: choices[k.path],
			Flags: t.spellings(k, func(path string) string { return path }), Env: t.spellings(k, envName),
			Text: docs[k.path], Live: live(k.path),
		})
	}
	return list
}

// spellings returns all names of a key, its own first.
func (t tree) spellings(of key, own func(path string) string) []string {
	byName, inOrder := t.names(own)
	return slices.DeleteFunc(inOrder, func(name string) bool { return byName[name].path != of.path })
}

// ConfigEnv is the variable that names the configuration file, as --config does.
const ConfigEnv = configEnv

func kind(typ reflect.Type) string {
	switch {
	case isRecords(typ):
		return "records"
	case typ == reflect.TypeFor[Secret]():
		return "secret"
	case typ == reflect.TypeFor[time.Duration]():
		return "duration"
	case typ == reflect.TypeFor[[]int]():
		return "numbers"
	}
	switch typ.Kind() {
	case reflect.Bool:
		return "bool"
	case reflect.Int:
		return "number"
	case reflect.Map:
		return "map"
	case reflect.Slice:
		return "list"
	}
	return "text"
}

// live says how a key, or what is in the file that it names, changes without a restart.
func live(path string) string {
	switch path {
	case "sync.keys_per_second", "sync.bytes_per_second", "sync.schedule":
		return "crossfade throttle"
	case "shadow.percent":
		return "crossfade shadow"
	}
	section, name := splitPath(path)
	if strings.HasSuffix(section, ".tls") && strings.HasSuffix(name, "_file") {
		return "the file is read again when it changes"
	}
	return ""
}

// comments are those of the example, by key: the one place where keys are explained.
func comments(t tree) map[string]string {
	docs := map[string]string{}
	var document yaml.Node
	if err := yaml.Unmarshal(Example, &document); err != nil || len(document.Content) == 0 {
		return docs
	}
	var walk func(node *yaml.Node, prefix string)
	walk = func(node *yaml.Node, prefix string) {
		for i := 0; i+1 < len(node.Content); i += 2 {
			path := prefix + node.Content[i].Value
			if t.sections[path] {
				walk(node.Content[i+1], path+".")
				continue
			}
			text := node.Content[i].HeadComment
			if _, last, has := strings.Cut(text, "\n\n"); has {
				text = last // a heading of the file or the section stands before
			}
			docs[path] = strings.Join(strings.Fields(strings.NewReplacer("#", " ", "`", "'").Replace(text)), " ")
		}
	}
	walk(document.Content[0], "")
	return docs
}

// firstSentence is what a list of flags has room for.
func firstSentence(text string) string {
	sentence, _, _ := strings.Cut(text, ". ")
	return strings.TrimSuffix(sentence, ".")
}
