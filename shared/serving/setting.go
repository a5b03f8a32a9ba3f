package serving

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/handoff-auth/handoff/shared/handoff"
)

// Exit statuses of the servers.
const (
	exitFailure = 1 // it started, or could have, and failed
	exitSetting = 2 // a setting is wrong: nothing was started
)

// A SettingError says which setting stops the program from starting. Setting is
// the name of a flag without its dashes, or empty where Err names what is wrong
// with the command line itself.
type SettingError struct {
	Setting string
	Err     error
}

// Error returns "--setting: cause"; or, where the cause is a *handoff.ConfigError or
// says what the setting is, has, must or cannot, the sentence "--setting must be …".
func (e *SettingError) Error() string {
	text := e.Err.Error()
	if e.Setting == "" {
		return text
	}
	if config, ok := errors.AsType[*handoff.ConfigError](e.Err); ok {
		of := *config
		of.Field = "--" + e.Setting
		return of.Error()
	}
	switch verb, _, _ := strings.Cut(text, " "); verb {
	case "is", "has", "must", "cannot":
		return "--" + e.Setting + " " + text
	}
	return "--" + e.Setting + ": " + text
}

// Unwrap returns the cause.
func (e *SettingError) Unwrap() error { return e.Err }

// Named returns the *SettingError for a *handoff.ConfigError whose field comes from
// a setting: settings has the flag's name for each such field. Other errors it
// returns as they are.
func Named(err error, settings map[string]string) error {
	if config, ok := errors.AsType[*handoff.ConfigError](err); ok && settings[config.Field] != "" {
		return &SettingError{settings[config.Field], config}
	}
	return err
}

// passwords finds those of URLs, with what is around them.
var passwords = regexp.MustCompile(`(://[^\s/:]*:)(\S*)@`)

// mask puts xxxxx for the password of each URL in a text, except the word that
// stands for one in advice.
func mask(text string) string {
	return passwords.ReplaceAllStringFunc(text, func(found string) string {
		if parts := passwords.FindStringSubmatch(found); parts[2] != "PASSWORD" {
			return parts[1] + "xxxxx@"
		}
		return found
	})
}

// Exit writes err as one line that begins with the program's name, and returns
// the status to exit with: 0 for nil, 2 for a *SettingError, 1 for others. Who does not
// read the line does not keep the program from its end.
func Exit(stderr io.Writer, program string, err error) int {
	if err == nil {
		return 0
	}
	line := strings.Join(strings.Fields(err.Error()), " ")
	out := NewLogWriter(stderr)
	defer out.Close()
	fmt.Fprintf(out, "%s: %s\n", program, mask(line)) // an argument of the command line may be in it as it is
	if errors.As(err, new(*SettingError)) {
		return exitSetting
	}
	return exitFailure
}
