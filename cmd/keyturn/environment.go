package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/config"
)

// variablePrefix begins the names of all variables that keyturn reads, but for the standard ones of OpenTelemetry.
const variablePrefix = "KEYTURN_"

// serviceVariable is a variable that Kubernetes sets in pods for a Service whose name begins with keyturn:
// https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
var serviceVariable = regexp.MustCompile(`^KEYTURN_([A-Z0-9_]+_)?` +
	`(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)$`)

// servicePort is the one of them whose name says too little: KEYTURN_PORT=8080 is meant as a setting.
var servicePort = regexp.MustCompile(`^KEYTURN_([A-Z0-9_]+_)?PORT=(tcp|udp|sctp)://`)

// unknownVariables tells of each variable that looks like a setting and is none: it would be one that silently does
// nothing. An empty variable counts as unset.
func unknownVariables(environ []string) (problems []error) {
	names := knownVariables()
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		plain := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		misspelt := name != plain && slices.Contains(names, plain) // keyturn_access_ttl, keyturn-access-ttl
		unknown := strings.HasPrefix(name, variablePrefix) && !slices.Contains(names, name)
		ofService := serviceVariable.MatchString(name) || servicePort.MatchString(variable)
		if value == "" || ofService || !misspelt && !unknown {
			continue
		}
		problem := fmt.Errorf("unknown variable %q in the environment", name)
		if near := nearest(plain, names); near != "" && plain != variablePrefix {
			problem = fmt.Errorf("%w: did you mean %s?", problem, near)
		}
		problems = append(problems, problem)
	}
	return problems
}

// knownVariables are the variables that keyturn reads.
func knownVariables() []string {
	names := []string{variablePrefix + "CONFIG"}
	for _, s := range config.Settings {
		names = append(names, s.Env, s.Env+"_FILE")
	}
	return names
}
