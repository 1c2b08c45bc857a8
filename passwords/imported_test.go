package passwords

import (
	"strings"
	"testing"

	"github.com/keyturn/keyturn/passwords/passwordstest"
)

func TestImportedHashes(t *testing.T) {
	for _, c := range passwordstest.Imported {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			h, err := ParseImported(c.Text)
			if err != nil {
				t.Fatal(err)
			}
			if wrong := passwordstest.Password + "x"; h.Matches(wrong, passwordstest.Password) {
				t.Errorf("%q matches", wrong)
			}
			if !h.Matches(passwordstest.Password, "") || !h.Weaker(Policy{}) {
				t.Error("the password does not match, or the hash would not be replaced")
			}
		})
	}
}

// bcrypt ignores all but 72 bytes of a password. A longer one does not match, since the rest is not verified.
func TestImportedHashOfALongPassword(t *testing.T) {
	h, err := ParseImported("$2b$05$Yo8LD/KhMYqfpuo370p7vODV89Ub7RmdFOTQeuALuM2uEWQiv9lKO")
	long := strings.Repeat("0123456789", 8)
	if err != nil || !h.Matches(long[:72], "") || h.Matches(long, "") || h.Matches(long[:71], "") {
		t.Error(err)
	}
}

func TestImportedHashesRefused(t *testing.T) {
	const sum = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	for text, want := range map[string]string{
		"":  "no form",
		"x": "no form",
		"md5$BAaBdi3iz11KsLBV3vQOg8$9b2a35204ad32f9d1e5ed60a4095e3b3":         "md5 is no password hash",
		"75e11c696fe110beb2e22cf2e3920763":                                    "md5 is no password hash",
		"sha1$$3e139ddc52e13f0b07ec15cd8e77c79226595584":                      "sha1 is no password hash",
		"crypt$$whKQab18h1Tw2":                                                "eight characters",
		"$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/":                                  "md5-crypt",
		"$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i":     "yescrypt",
		"$argon2d$v=19$m=4096,t=3,p=1$c29tZXNhbHQ$" + sum:                     "argon2d",
		"$argon2id$v=16$m=4096,t=3,p=1$c29tZXNhbHQ$" + sum:                    "no form",
		"argon2$argon2id$v=19$m=999999999,t=2,p=8$c29tZXNhbHQ$" + sum:         "memory in KiB 999999999",
		"argon2$argon2id$v=19$m=4096,t=0,p=8$c29tZXNhbHQ$" + sum:              "time 0",
		"argon2$argon2id$v=19$m=4096,t=1,p=0$c29tZXNhbHQ$" + sum:              "lanes 0",
		"argon2$argon2id$v=19$m=8,t=1,p=4$c29tZXNhbHQ$" + sum:                 "memory in KiB 8",
		"argon2$argon2id$v=19$m=4096,t=1,p=1$c29tZXNhbHQ$AAAA":                "length in bytes 3",
		"pbkdf2_sha256$99999999$salt$" + sum + "=":                            "iterations 99999999",
		"pbkdf2_sha256$0$salt$" + sum + "=":                                   "iterations 0",
		"pbkdf2_sha256$1000$salt$" + sum:                                      "not base64",
		"pbkdf2_md5$1000$salt$" + sum + "=":                                   "no form",
		"$pbkdf2-sha256$29000$A$" + sum:                                       "salt is not base64",
		"bcrypt$$2b$15$4NEr43rTpyk7b/VdE0QWdey2CSVDIzCZ9u9zcTS/FLEQ.N02jCqGe": "cost 15",
		"$2b$03$4NEr43rTpyk7b/VdE0QWdey2CSVDIzCZ9u9zcTS/FLEQ.N02jCqGe":        "cost 3",
		"$2x$05$4NEr43rTpyk7b/VdE0QWdey2CSVDIzCZ9u9zcTS/FLEQ.N02jCqGe":        "no form",
		"scrypt$16385$salt$8$1$" + sum + "=":                                  "power of two",
		"scrypt$1048576$salt$8$1$" + sum + "=":                                "n times r times p 8388608",
		"scrypt$16384$salt$0$1$" + sum + "=":                                  "r 0",
		"$scrypt$ln=99,r=8,p=1$c29tZXNhbHQ$" + sum:                            "is not between",
		"$6$rounds=999999999$saltstring$" + sum + sum:                         "rounds 999999999",
		"$6$rounds=700001$saltstring$" + sum + sum:                            "rounds 700001",
		"$scrypt$ln=20,r=2,p=16$c29tZXNhbHQ$" + sum:                           "n times r times p",
		"argon2$argon2id$v=19$m=262144,t=16,p=1$c29tZXNhbHQ$" + sum:           "memory in KiB 262144",
		"pbkdf2_sha1$1000001$salt$" + sum + "=":                               "iterations 1000001",
		"$6$rounds=1$saltstring$" + sum + sum:                                 "rounds 1",
		"$argon2i$v=19$m=4096,t=3,p=1$c29tZXNhbHR$" + sum:                     "stray bits",
		"$argon2i$v=19$m=4096,t=3,p=1$c29tZXNhbHQ$" + sum[1:] + "B":           "stray bits",
		"$pbkdf2-sha256$29000$c29tZXNhbHR$" + sum:                             "stray bits",
		"$scrypt$ln=14,r=8,p=1$c29tZXNhbHR$" + sum:                            "stray bits",
	} {
		if _, err := ParseImported(text); err == nil || !strings.Contains(err.Error(), want) ||
			strings.Contains(err.Error(), sum) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
