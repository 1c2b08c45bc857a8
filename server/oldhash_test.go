package server

import (
	"strings"
	"testing"
)

const oldPassword = "correct horse bättery"

// oldHashes are hashes of oldPassword that other software made: Django 3.2, and Python's hashlib, crypt, bcrypt and argon2 in the forms of passlib and
// of PHC strings.
var oldHashes = []struct{ name, text string }{
	{"Django pbkdf2_sha256", `pbkdf2_sha256$260000$a00qsaWIYpyOUJlYmTaA78$i0i7LqFfmPwHteS0UVJWU9AhPCcLNVV1qZG2vVGPXzI=`},
	{"Django pbkdf2_sha1", `pbkdf2_sha1$260000$MNRGbGlsbWxYwPj4zeCXdV$aUQCKWbPb9jlLSJOh4v9TbJIbhw=`},
	{"Django argon2", `argon2$argon2id$v=19$m=102400,t=2,p=8$WDNtS3V1VG5wQWY5UUQ4V0lySXRDUw$qSyhGtaqfUUNcvFo3I8opw`},
	{"Django bcrypt_sha256", `bcrypt_sha256$$2b$12$4OqegZM.a7Owx4AZ1RKutOq2HLsftmcnDSNeriNkbcxS2/qgXCIYe`},
	{"Django bcrypt", `bcrypt$$2b$12$dfDeI.lvgmiB8lx5YlCzC.6p/gH6pXLo/eIf/OULxXaCS45NViUfa`},
	{"django scrypt", `scrypt$16384$seasalt$8$5$e5XFUFruAm4nZWgSTX04iEh7KM9XdDeKLHHn3JE3IiDbFly/VEnxLoPo2XgtVppXbHx7CxxRrZb7C8Dseq03mw==`},
	{"PHC scrypt", `$scrypt$ln=14,r=8,p=1$yMnKy8zNzs/Q0dLT1NXW1w$lr/VqAe4FgRfJT7kuSo61LHuwQ+47uVHpVRonmCfF7I`},
	{"passlib pbkdf2-sha256", `$pbkdf2-sha256$29000$yMnKy8zNzs/Q0dLT1NXW1w$5Msaj8xKYbGXdS2L45ItUiviY/K2HG8uW0hGNvrBaMQ`},
	{"passlib pbkdf2-sha512", `$pbkdf2-sha512$29000$yMnKy8zNzs/Q0dLT1NXW1w$iqvUasw0KmkSqdgS2MSYlg/6DwXv9hmZwV442DOrz1CmgirwdWUmUG9PNElwS6UZgpLObd4ZK/CQJ.eUgbIdhw`},
	{"passlib pbkdf2", `$pbkdf2$131000$yMnKy8zNzs/Q0dLT1NXW1w$kIVZeO4Hxajm1GnHCF/POR5MtH4`},
	{"PHC pbkdf2-sha256", `$pbkdf2-sha256$i=29000,l=32$yMnKy8zNzs/Q0dLT1NXW1w$5Msaj8xKYbGXdS2L45ItUiviY/K2HG8uW0hGNvrBaMQ`},
	{"sha512-crypt", `$6$saltstring$80JGtPXHzHY2ufCNXvLasA76lA8B4PrnoGAfVCEyZf8DQ9MY6rTASMMqGyAVd1lKEaTAmpoLDX4Me3plB3vsx.`},
	{"sha256-crypt, rounds", `$5$rounds=10000$saltstringsaltst$5O396NXYkW/OqcfH1hJzSuIXb9fnU8QCyWVVrqVSL86`},
	{"PHC argon2i", `$argon2i$v=19$m=8192,t=2,p=2$yMnKy8zNzs/Q0dLT1NXW1w$2KA3pFB6NDG4eeJBaNbqSg`},
	{"PHC argon2id, p 4", `$argon2id$v=19$m=4096,t=1,p=4$yMnKy8zNzs/Q0dLT1NXW1w$7ihmvpDCr2NzJpiauTXYzZYU/3oGBsV9QhhoeKrnxLo`},
	{"bcrypt", `$2b$05$wHAoUNmeYE9Wc91QNNN24.w11cCmPj7CAwLgTxDTV6hDs03FggVTG`},
	{"bcrypt 2a", `$2a$05$ulMqmZTRggJnO.tsVlgq3ermyqV3L9/vx9OCpml.qhn4AAMzLb65C`},
}

func TestOldHashes(t *testing.T) {
	for _, c := range oldHashes {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h, err := parseOldHash(c.text)
			if err != nil {
				t.Fatal(err)
			}
			if wrong := oldPassword + "x"; h.matches(wrong, oldPassword) {
				t.Errorf("%q is taken", wrong)
			}
			if !h.matches(oldPassword, "") || !h.weaker(hashPolicy{}) {
				t.Error("it does not match, or would stay")
			}
		})
	}
}

// bcrypt looks at 72 bytes. What it does not look at is not taken for verified, and is where the hash of a hash was made of it.
func TestOldHashOfALongPassword(t *testing.T) {
	h, err := parseOldHash("$2b$05$Yo8LD/KhMYqfpuo370p7vODV89Ub7RmdFOTQeuALuM2uEWQiv9lKO")
	long := strings.Repeat("0123456789", 8)
	if err != nil || !h.matches(long[:72], "") || h.matches(long, "") || h.matches(long[:71], "") {
		t.Error(err)
	}
}

func TestOldHashesRefused(t *testing.T) {
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
	} {
		if _, err := parseOldHash(text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), sum) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
