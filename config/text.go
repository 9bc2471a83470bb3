package config

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// parseText reads the value of a key of the given type. The error completes the
// sentence "KEY: VALUE …". Text of a secret is never refused.
func parseText(typ reflect.Type, text string) (any, error) {
	if isRecords(typ) {
		return parseRecords(typ, text)
	}
	switch typ {
	case reflect.TypeFor[string]():
		return text, nil
	case reflect.TypeFor[Secret]():
		return Secret(text), nil
	case reflect.TypeFor[bool]():
		return parseBool(text)
	case reflect.TypeFor[int]():
		return parseInt(text)
	case reflect.TypeFor[time.Duration]():
		return parseDuration(text)
	case reflect.TypeFor[[]int]():
		return parseList(text)
	case reflect.TypeFor[[]string]():
		return parseTexts(text), nil
	case reflect.TypeFor[map[int]Place]():
		return parsePairs(text)
	}
	return nil, fmt.Errorf("cannot be read: the program does not know the type %v", typ)
}

func parseBool(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "true", "yes", "on", "1":
		return true, nil
	case "false", "no", "off", "0":
		return false, nil
	}
	return false, errors.New("is neither true nor false")
}

// units of numbers; the longer ones first.
var units = []struct {
	suffix string
	factor int
}{
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30},
	{"ki", 1 << 10}, {"mi", 1 << 20}, {"gi", 1 << 30},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9},
	{"k", 1e3}, {"m", 1e6}, {"g", 1e9},
}

func parseInt(text string) (int, error) {
	wrong := errors.New("is not a whole number: write one such as 1000, 1_000 or 1k")
	digits, factor := strings.ToLower(strings.TrimSpace(text)), 1
	for _, unit := range units {
		if rest, has := strings.CutSuffix(digits, unit.suffix); has {
			digits, factor = strings.TrimSpace(rest), unit.factor
			break
		}
	}
	// Base 10 always: 010 is ten, not eight.
	number, err := strconv.ParseInt(strings.ReplaceAll(digits, "_", ""), 10, 64)
	if errors.Is(err, strconv.ErrRange) || err == nil && (number > math.MaxInt64/int64(factor) || number < math.MinInt64/int64(factor)) {
		return 0, errors.New("is too big a number")
	}
	if err != nil || strings.HasPrefix(digits, "_") {
		return 0, wrong
	}
	return int(number) * factor, nil
}

func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(strings.TrimSpace(text))
	if err == nil {
		return d, nil
	}
	if _, err := strconv.ParseFloat(strings.TrimSpace(text), 64); err == nil {
		return 0, fmt.Errorf("has no unit: write %ss, %sms or the like", strings.TrimSpace(text), strings.TrimSpace(text))
	}
	return 0, errors.New("is not a duration: write one such as 50ms, 2s or 1m30s")
}

func parseDatabase(text string) (int, error) {
	number, err := strconv.ParseInt(strings.TrimSpace(text), 10, 32)
	return int(number), err
}

// parseList reads "1,2".
func parseList(text string) ([]int, error) {
	var list []int
	for item := range items(text) {
		number, err := parseDatabase(item)
		if err != nil {
			return nil, fmt.Errorf("is not a list of databases (%q): write numbers with commas, such as 1,2", brief(item))
		}
		list = append(list, number)
	}
	return list, nil
}

// parseTexts reads "a,b".
func parseTexts(text string) []string {
	var list []string
	for item := range items(text) {
		list = append(list, strings.TrimSpace(item))
	}
	return list
}

// items yields what stands between commas; nothing for an empty text.
func items(text string) func(func(string) bool) {
	if strings.TrimSpace(text) == "" {
		return func(func(string) bool) {}
	}
	return strings.SplitSeq(text, ",")
}

// formatValue is the inverse of parseText; secrets come out redacted.
func formatValue(value any) string {
	switch value := value.(type) {
	case []int:
		texts := make([]string, len(value))
		for i, number := range value {
			texts[i] = strconv.Itoa(number)
		}
		return strings.Join(texts, ",")
	case []string:
		return strings.Join(value, ",")
	case map[int]Place:
		return formatPairs(value)
	case []Credential, []User, []Window, []Hook:
		return "" // as a flag's default: never one
	default:
		return fmt.Sprint(value)
	}
}

// brief shortens what an error quotes.
func brief(text string) string {
	const enough = 60
	if len(text) <= enough {
		return text
	}
	return strings.ToValidUTF8(text[:enough], "") + "…"
}
