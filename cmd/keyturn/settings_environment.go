package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/admin"
	"github.com/keyturn/keyturn/config"
)

// variablePrefix is the prefix of every variable that keyturn reads, except the standard ones of OpenTelemetry.
const variablePrefix = "KEYTURN_"

// serviceVariable matches the variables that Kubernetes sets in pods for a Service whose name begins with keyturn:
// https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
var serviceVariable = regexp.MustCompile(`^KEYTURN_([A-Z0-9_]+_)?` +
	`(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)$`)

// servicePort matches the one variable of a Service that only its value gives away: KEYTURN_PORT=8080 is a mistake for
// a setting.
var servicePort = regexp.MustCompile(`^KEYTURN_([A-Z0-9_]+_)?PORT=(tcp|udp|sctp)://`)

// unknownVariables reports each variable that looks like a setting and is none: it would have no effect. An empty
// variable counts as unset.
func unknownVariables(environ []string) (problems []error) {
	names := knownVariables()
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		plain := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		misspelled := name != plain && slices.Contains(names, plain) // keyturn_access_ttl, keyturn-access-ttl
		unknown := strings.HasPrefix(name, variablePrefix) && !slices.Contains(names, name)
		ofService := serviceVariable.MatchString(name) || servicePort.MatchString(variable)
		if value == "" ||
			ofService ||
			!misspelled && !unknown {
			continue
		}
		problem := fmt.Errorf("unknown variable %q in the environment", name)
		if near := admin.Nearest(plain, names); near != "" && plain != variablePrefix {
			problem = fmt.Errorf("%w: did you mean %s?", problem, near)
		}
		problems = append(problems, problem)
	}
	return problems
}

// knownVariables lists the variables that keyturn reads.
func knownVariables() []string {
	// The completion of shells sets the second one.
	names := []string{variablePrefix + "CONFIG", variablePrefix + "ACTIVE_HELP"}
	for _, s := range config.Settings {
		names = append(names, s.Env, s.Env+"_FILE")
	}
	return names
}
