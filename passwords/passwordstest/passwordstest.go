// Package passwordstest has hashes that other software made, to test code that verifies them.
package passwordstest

// Password is the password of all Imported.
const Password = "correct horse bättery"

// Imported are hashes of Password that other software made: Django 3.2, and Python's hashlib, crypt, bcrypt and argon2,
// in passlib's forms and as PHC strings.
var Imported = []struct{ Name, Text string }{
	{
		"Django pbkdf2_sha256",
		`pbkdf2_sha256$260000$a00qsaWIYpyOUJlYmTaA78$i0i7LqFfmPwHteS0UVJWU9AhPCcLNVV1qZG2vVGPXzI=`,
	},
	{"Django pbkdf2_sha1", `pbkdf2_sha1$260000$MNRGbGlsbWxYwPj4zeCXdV$aUQCKWbPb9jlLSJOh4v9TbJIbhw=`},
	{"Django argon2", `argon2$argon2id$v=19$m=102400,t=2,p=8$WDNtS3V1VG5wQWY5UUQ4V0lySXRDUw$qSyhGtaqfUUNcvFo3I8opw`},
	{"Django bcrypt_sha256", `bcrypt_sha256$$2b$12$4OqegZM.a7Owx4AZ1RKutOq2HLsftmcnDSNeriNkbcxS2/qgXCIYe`},
	{"Django bcrypt", `bcrypt$$2b$12$dfDeI.lvgmiB8lx5YlCzC.6p/gH6pXLo/eIf/OULxXaCS45NViUfa`},
	{
		"django scrypt",
		`scrypt$16384$seasalt$8$5$e5XFUFruAm4nZWgSTX04iEh7KM9XdDeKLHHn3JE3IiDbFly/VEnxLoPo2XgtVppXbHx7CxxRrZb7` +
			`C8Dseq03mw==`,
	},
	{"PHC scrypt", `$scrypt$ln=14,r=8,p=1$yMnKy8zNzs/Q0dLT1NXW1w$lr/VqAe4FgRfJT7kuSo61LHuwQ+47uVHpVRonmCfF7I`},
	{
		"passlib pbkdf2-sha256",
		`$pbkdf2-sha256$29000$yMnKy8zNzs/Q0dLT1NXW1w$5Msaj8xKYbGXdS2L45ItUiviY/K2HG8uW0hGNvrBaMQ`,
	},
	{
		"passlib pbkdf2-sha512",
		`$pbkdf2-sha512$29000$yMnKy8zNzs/Q0dLT1NXW1w$` +
			`iqvUasw0KmkSqdgS2MSYlg/6DwXv9hmZwV442DOrz1CmgirwdWUmUG9PNElwS6UZgpLObd4ZK/CQJ.eUgbIdhw`,
	},
	{"passlib pbkdf2", `$pbkdf2$131000$yMnKy8zNzs/Q0dLT1NXW1w$kIVZeO4Hxajm1GnHCF/POR5MtH4`},
	{
		"PHC pbkdf2-sha256",
		`$pbkdf2-sha256$i=29000,l=32$yMnKy8zNzs/Q0dLT1NXW1w$5Msaj8xKYbGXdS2L45ItUiviY/K2HG8uW0hGNvrBaMQ`,
	},
	{
		"sha512-crypt",
		`$6$saltstring$80JGtPXHzHY2ufCNXvLasA76lA8B4PrnoGAfVCEyZf8DQ9MY6rTASMMqGyAVd1lKEaTAmpoLDX4Me3plB3vsx.`,
	},
	{"sha256-crypt, rounds", `$5$rounds=10000$saltstringsaltst$5O396NXYkW/OqcfH1hJzSuIXb9fnU8QCyWVVrqVSL86`},
	{"PHC argon2i", `$argon2i$v=19$m=8192,t=2,p=2$yMnKy8zNzs/Q0dLT1NXW1w$2KA3pFB6NDG4eeJBaNbqSg`},
	{
		"PHC argon2id, p 4",
		`$argon2id$v=19$m=4096,t=1,p=4$yMnKy8zNzs/Q0dLT1NXW1w$7ihmvpDCr2NzJpiauTXYzZYU/3oGBsV9QhhoeKrnxLo`,
	},
	{"bcrypt", `$2b$05$wHAoUNmeYE9Wc91QNNN24.w11cCmPj7CAwLgTxDTV6hDs03FggVTG`},
	{"bcrypt 2a", `$2a$05$ulMqmZTRggJnO.tsVlgq3ermyqV3L9/vx9OCpml.qhn4AAMzLb65C`},
}
