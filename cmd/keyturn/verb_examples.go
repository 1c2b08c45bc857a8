package main

// verbExamples are the examples in the help of each command, by its path.
var verbExamples = map[string]string{
	"dev": `
keyturn dev
keyturn dev --listen 127.0.0.1:9080 --admin-listen 127.0.0.1:9081
keyturn dev --log-level info`,
	"serve": `
keyturn serve --issuer http://127.0.0.1:8080
keyturn serve --config /etc/keyturn/keyturn.yaml
keyturn serve --issuer https://auth.example.com --listen :8443 --tls-cert-file cert.pem --tls-key-file key.pem`,
	"client create": `
keyturn client create app --grant password --grant refresh_token --scope "read write" --audience https://api.example.com
keyturn client create api --resource https://api.example.com
keyturn client create spa --public --grant password --grant refresh_token --audience https://api.example.com
keyturn client create app --grant password --audience https://api.example.com --secret-stdin < secret.txt`,
	"client list": `
keyturn client list
keyturn client list --json
keyturn client list --limit 20 --after app`,
	"client show": `
keyturn client show app
keyturn client show app --json`,
	"client update": `
keyturn client update app --add-scope admin --remove-scope write
keyturn client update app --scope "read write" --reason "ticket 4711"
keyturn client update app --access-ttl 5m --token-typ JWT
keyturn client update mailer --refresh-rotation off`,
	"client rotate-secret": `
keyturn client rotate-secret app
keyturn client rotate-secret app --keep 7d --reason "yearly"
keyturn client rotate-secret app --keep 0 --reason "the secret has leaked"`,
	"client enable": `
keyturn client enable app
keyturn client enable app --reason "the incident is over"`,
	"client disable": `
keyturn client disable app
keyturn client disable app --reason "it misbehaves"`,
	"client delete": `
keyturn client delete app
keyturn client delete app --yes --reason "replaced by app2"`,
	"user create": `
keyturn user create alice
keyturn user create alice --role admin --role ops
keyturn user create alice --password-stdin < password.txt`,
	"user import": `
keyturn user import --format jsonl users.jsonl
keyturn user import --format django dump.json --dry-run
keyturn user import --format jsonl - --skip-bad < users.jsonl`,
	"user list": `
keyturn user list
keyturn user list --role admin --disabled
keyturn user list --prefix al --limit 20
keyturn user list --json`,
	"user show": `
keyturn user show alice
keyturn user show alice --json`,
	"user update": `
keyturn user update alice --role admin --role ops
keyturn user update alice --role "" --reason "she has left the team"`,
	"user passwd": `
keyturn user passwd alice
keyturn user passwd alice --password-stdin --reason "she forgot it" < password.txt`,
	"user enable": `
keyturn user enable alice
keyturn user enable alice --reason "she is back"`,
	"user unlock": `
keyturn user unlock alice
keyturn user unlock alice --reason "she called"`,
	"user disable": `
keyturn user disable alice
keyturn user disable alice --reason "she has left"`,
	"user delete": `
keyturn user delete alice
keyturn user delete alice --yes --reason "she asked for it"`,
	"grant list": `
keyturn grant list
keyturn grant list --user alice --active
keyturn grant list --client app --ended --since 24h
keyturn grant list --json`,
	"grant show": `
keyturn grant show 3d27980dc8b0cb27
keyturn grant show 3d27980dc8b0cb27 --json`,
	"grant revoke": `
keyturn grant revoke 3d27980dc8b0cb27
keyturn grant revoke --user alice --reason "her phone was stolen"
keyturn grant revoke --client app --yes
keyturn grant revoke --all --yes --reason "the user database has leaked"`,
	"keys list": `
keyturn keys list
keyturn keys list --json`,
	"keys status": `
keyturn keys status
keyturn keys status --check
keyturn keys status --json`,
	"keys timeline": `
keyturn keys timeline
keyturn keys timeline --incident
keyturn keys timeline --from 2026-01-01 --to 2026-12-31
keyturn keys timeline --svg keys.svg`,
	"keys readiness": `
keyturn keys readiness
keyturn keys readiness --check
keyturn keys readiness --json`,
	"probe": `
keyturn probe api --url https://api.example.com/orders --scope read
keyturn probe api --url https://api.example.com/orders --scope read --next --revocation
keyturn probe api --reports
keyturn probe api --report 1`,
	"verifier create": `
keyturn verifier create orders --resource https://api.example.com
keyturn verifier create orders --resource https://api.example.com --note "team orders"`,
	"verifier list": `
keyturn verifier list
keyturn verifier list --json`,
	"verifier show": `
keyturn verifier show orders
keyturn verifier show orders --json`,
	"verifier delete": `
keyturn verifier delete orders
keyturn verifier delete orders --reason "it has moved"`,
	"keys rotate": `
keyturn keys rotate --dry-run
keyturn keys rotate --reason "yearly drill"
keyturn keys rotate --when-ready --except billing --reason "yearly drill"
keyturn keys rotate --force --reason "before the freeze"`,
	"keys revoke": `
keyturn keys revoke current --dry-run
keyturn keys revoke current --reason "it was in a log" --yes
keyturn keys revoke Jgs_ZlJy --reason "it has leaked" --since 24h --end-grants since
keyturn keys revoke all --store-leaked --new-master-key-file new.key --reason "a stolen backup"`,
	"keys rewrap": `
keyturn keys rewrap --new-master-key-file new.key
keyturn keys rewrap --new-master-key-file new.key --reason "yearly"`,
	"token inspect": `
keyturn token inspect
keyturn token inspect < token.txt
keyturn token inspect --json < token.txt`,
	"audit list": `
keyturn audit list --since 24h
keyturn audit list --type key.revoke
keyturn audit list --actor os:root --since 7d --until 1d
keyturn audit list --target alice --json`,
	"audit verify": `
keyturn audit verify
keyturn audit verify --json`,
	"audit export": `
keyturn audit export > audit.jsonl
keyturn audit export | gzip > audit.jsonl.gz`,
	"example": `
keyturn example
keyturn example jose --issuer https://auth.example.com --audience https://api.example.com
keyturn example verify --verifier orders
keyturn example nginx --dir nginx`,
	"doctor": `
keyturn doctor
keyturn doctor --config /etc/keyturn/keyturn.yaml
keyturn doctor --json`,
	"healthcheck": `
keyturn healthcheck
keyturn healthcheck --admin-listen 127.0.0.1:8081`,
	"init": `
keyturn init
keyturn init --file /etc/keyturn/keyturn.yaml --issuer https://auth.example.com
keyturn init --answers answers.yaml`,
	"migrate up": `
keyturn migrate up
keyturn migrate up --config /etc/keyturn/keyturn.yaml`,
	"migrate status": `
keyturn migrate status
keyturn migrate status --json`,
	"backup": `
keyturn backup keyturn-backup.db
keyturn backup /backups/keyturn-2026-01-31.db --config /etc/keyturn/keyturn.yaml`,
	"restore": `
keyturn restore keyturn-backup.db --confirm --reason "the disk failed"
keyturn restore --confirm --reason "after pg_restore"`,
	"copy": `
keyturn copy --to-file url.txt
keyturn copy --to "postgres://keyturn@db.example.com/keyturn?sslmode=verify-full"`,
	"config validate": `
keyturn config validate --config /etc/keyturn/keyturn.yaml
keyturn config validate --issuer https://auth.example.com --behind-proxy
keyturn config validate --json`,
	"config show": `
keyturn config show
keyturn config show --origin
keyturn config show --json`,
	"admin create": `
keyturn admin create soc --role auditor --certificate-subject "CN=soc,O=Example"
keyturn admin create os:root --role operator --reason "scripts need no more"`,
	"admin link": `
keyturn admin link alice --role key-operator
keyturn admin link alice --reason "her laptop is lost"
keyturn admin link alice --json`,
	"admin list": `
keyturn admin list
keyturn admin list --json`,
	"admin disable": `
keyturn admin disable alice
keyturn admin disable alice --reason "on leave"`,
	"admin delete": `
keyturn admin delete alice
keyturn admin delete alice --reason "has left"`,
	"version": `
keyturn version
keyturn version --json`,
}
