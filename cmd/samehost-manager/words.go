package main

import (
	"fmt"

	"samehost/internal/registry"
)

// in is a text of ours in the language that is asked for, with arguments as fmt has them. What conflicts, events, orders and
// reasons say comes from where they are made, in both languages.
func (p *program) in(text string, args ...any) string {
	if ja, ok := japanese[text]; ok && p.lang == registry.Japanese {
		text = ja
	}
	if len(args) == 0 {
		return text
	}
	return fmt.Sprintf(text, args...)
}

// What init says to do next: with a data folder of a new manager, and of one more on a database.
const (
	textMade = `Made the data folder of a manager. What to do next:

1. See that %s has, under listen and names,
   the name or address by which PCs reach this machine. Then start it:
     samehost-manager serve --config %s
2. On each PC, put these two into the client's folder:
     ca_file               %s
     enrolment_token_file  a file with this one line, which is shown only now:
%s
   (another one: samehost-manager token create)
3. The password of the administrator "%s" is in
     %s
   Take note of it, then delete the file.
4. Say what the AMT management user of the PCs is, if they have AMT:
     samehost-manager amtsetup set --config %s
`

	textMadeOneMore = `Made the data folder of one more manager on the same database. What to do next:

1. See that %s has, under listen and names,
   the name or address by which PCs reach this machine; write [amt] as in the
   other's. Then start it:
     samehost-manager serve --config %s
2. PCs need nothing new: its CA, its key and the enrolment tokens are the
   other's.
`
)

// japanese has every text that is given to in, and every head of a table.
var japanese = map[string]string{
	"HOST ID": "ホスト識別子", "NAME": "名前", "STATE": "状態", "INIT": "初期", "CHECK-IN": "最終通信", "NO.": "番号", "DELETED": "削除日時", "BY": "実行者",
	"RESTORED": "復元", "RULE": "規則", "MODE": "モード", "CHANGED": "変更日時", "KIND": "種別", "VALUE": "値", "ADDED": "登録日時", "ASSETS": "資産",
	"PASSWORD SET": "パスワード設定", "TOKEN": "トークン", "USES": "使用数", "CREATED": "作成日時", "NOTE": "メモ", "CONTACT": "最終接続", "BACKLOG": "滞留",
	"FOR": "対象", "VERSION": "バージョン", "SET": "設定日時", "USER": "ユーザ", "ROUTE": "経路", "DONE": "完了", "FAILED": "失敗", "RUN": "番号", "STARTED": "開始日時",
	"SOURCE": "対象", "PC": "PC", "ADDRESS": "アドレス", "OUTCOME": "結果",

	"yes": "済み", "no": "未", "host ID": "ホスト識別子", "name": "名前", "state": "状態", "initialized": "初期設定", "last attempt": "最後の初期設定", "what to do": "対処",
	"last check-in": "最終通信", "addresses": "アドレス", "system": "OS", "client": "クライアント", "origin": "由来", "store": "保管先",
	"system UUID": "システム UUID", "system serial": "システム製造番号", "board serial": "基板製造番号", "chassis serial": "筐体製造番号",
	"disk": "ディスク", " (system)": " (システム)", "network": "ネットワーク", " (onboard)": " (オンボード)", "had host ID": "使用した識別子",
	" never enrolled": " 未登録", " enrolled %s": " 登録 %s", ", replaced by %s": "、置き換え後 %s", ", copy of %s": "、複製元 %s", ", blocked": "、ブロック中", ", %d of %d branches blocked": "、分岐 %[2]d 本中 %[1]d 本ブロック中",
	"predecessor": "置き換え前", "conflict %d": "競合 %d", "waits until deletion %d is taken back": "保留中。削除 %d を取り消すと再び未解決になります。", "order": "指示",

	"all": "すべて", "; ": "、", "for the relay %s": "中継システム %s 用", "for a relay": "中継システム用", "until %s": "有効期限 %s",
	"route %s": "経路 %s", "no certificate was issued yet": "証明書は未発行", "certificate valid until %s": "証明書の有効期限 %s", "work open: %d": "未完了の作業 %d",
	"reports in its spool: %d, %d of %d MB, the oldest waits for %s": "スプールの報告 %d 件、%d/%d MB、最も古いものは %s 前", "turned away since it started: %d": "起動後に断った報告 %d 件",
	"%s and what reports through it": "%s およびその配下", "trusts certificates of its own": "専用の証明書を信頼", "trusts one key": "鍵一つを信頼", "port %s, enterprise %s": "ポート %s、エンタープライズ %s", "set by %s": "設定者 %s",

	textMade: `マネージャのデータフォルダを作成しました。次の手順を実行してください。

1. %s の listen と names に、
   PC がこのコンピュータを呼び出す名前またはアドレスを指定し、起動する:
     samehost-manager serve --config %s
2. 各 PC のクライアントのフォルダに、次の二つを置く:
     ca_file               %s
     enrolment_token_file  次の 1 行だけのファイル(この行は再び表示されません):
%s
   (別のトークンの作成: samehost-manager token create)
3. 管理者 "%s" のパスワードは次のファイルにある:
     %s
   控えてから、ファイルを削除する。
4. PC に AMT がある場合、その AMT 管理ユーザを設定する:
     samehost-manager amtsetup set --config %s
`,
	textMadeOneMore: `同じデータベースを使用するマネージャのデータフォルダを追加しました。次の手順を実行し
てください。

1. %s の listen と names に、
   PC がこのコンピュータを呼び出す名前またはアドレスを指定し、[amt] を元のマネージャ
   と同じにして、起動する:
     samehost-manager serve --config %s
2. CA、鍵、および登録トークンは元のマネージャと共通のため、PC の変更は不要。
`,
	"Token %s is revoked.": "トークン %s を無効にしました。",
	"%s: database, keys and configuration. Whoever has it can act as this manager.": "%s: データベース、鍵、および設定を格納しました。このファイルがあれば、このマネージャとして動作できます。厳重に保管してください。",
	"%s is an administrator.":                "管理者 %s を追加しました。",
	"%s has another password.":               "%s のパスワードを変更しました。",
	"%s is no administrator any more.":       "管理者 %s を削除しました。",
	"Rule %s: %s.":                           "規則 %s を %s にしました。",
	"%s %s counts as evidence again.":        "%s %s を無効値から除きました。",
	"%s: exported %d":                        "%s: %d 台を出力しました。",
	"%s: added %d, changed %d, unchanged %d": "%s: 追加 %d 台、変更 %d 台、変更なし %d 台",
	"%s %s proves nothing from now on. Clients are told with their next check-in.":                       "%s %s を無効値として登録しました。クライアントには次の通信で通知します。",
	"The AMT management user is set (version %d); relays and clients are told with their next check-in.": "AMT 管理ユーザを設定しました (バージョン %d)。中継システムおよびクライアントには次の通信で通知します。",
	"The AMT management user was set so already (version %d).":                                           "AMT 管理ユーザは同じ内容で設定済みです (バージョン %d)。",
	"The AMT management user is taken back; hosts are told with their next check-in.":                    "AMT 管理ユーザの設定を取り消しました。次の通信で通知します。",
	"%s: version %d; on each PC:":          "%s: バージョン %d。各 PC で実行:",
	"%s was exported %s by the manager %s": "%s は %s にマネージャ %s が出力したファイルです",
	"dcmamtin on this machine goes by [amt] in %s, which has a password of its own; from_manager = true there changes that": "このコンピュータの dcmamtin は、%s の [amt] に指定されたパスワードを使用します。from_manager = true を指定すると、この設定を使用します",
	"Copied %d rows of %d tables, and compared them.":                                                                       "%[2]d 個の表の %[1]d 行を複写し、照合しました。",
	"In %s, write\n  %s\n":                                "%s に次の行を指定し、\n  %s\n",
	"with the password in the place of ***.":              "*** をパスワードに置き換えて、",
	"then start serve. The former database is as it was.": "serve を起動してください。元のデータベースは変更していません。",
	"No asset has been silent for that long.":             "該当する資産はありません。",
	"%s is deleted: deletion %[2]d. Nothing of it is erased; samehost-manager restore %[2]d brings all of it back, and so does the next check-in of its PC.": "%s を削除しました。削除番号は %[2]d です。情報は消去していません。samehost-manager restore %[2]d を実行するか、PC から通信があると、すべて復元されます。",
	"%s is restored.":                                "%s を復元しました。",
	"%s is retired no longer.":                       "%s の廃棄を取り消しました。",
	"Our application is removed from its AMT at %s.": "%s の AMT からホスト識別子の領域の登録を削除しました。",
	"Its AMT at %s holds nothing of ours.":           "%s の AMT に削除すべき登録はありません。",
	"an application of our names stays there, under enterprise %s: [amt] enterprise in %s names another":                        "エンタープライズ %s に同名の登録が残っています。%s の [amt] enterprise は別の名前です",
	"%s is retired. If its PC should check in it is served, and stays retired; samehost-manager retire --undo takes that back.": "%s を廃棄済みとしました。PC から通信があれば応答しますが、廃棄済みのままです。samehost-manager retire --undo で取り消せます。",
	"%s is an asset of its own again.": "%s を独立した資産に戻しました。",
	"Host ID %s took the place of %s (host ID %[3]s), which is retired. Its history is the new PC's too; nothing that the old PC reports changes what is known of the new one. samehost-manager replace --undo %[3]s takes that back.": "%[2]s (ホスト識別子 %[3]s) をホスト識別子 %[1]s に置き換え、廃棄済みとしました。履歴は新しい PC に引き継がれます。古い PC の報告は、新しい PC の情報を変更しません。samehost-manager replace --undo %[3]s で取り消せます。",
	"check-ins came on %d of these %d days only; on the others nobody could be heard":        "%[2]d 日間のうち通信があったのは %[1]d 日だけです。ほかの日はどの PC からも通信がありません",
	"%d archived; each comes back with its next check-in, or with samehost-manager restore.": "%d 台を保管庫に移しました。次の通信または samehost-manager restore で戻ります。",
	"%d would be archived.":                                  "%d 台が対象です。",
	"may be %s %s (%s): %s":                                  "同一の可能性: %s %s (%s): %s",
	"They are one asset from now on.":                        "一つの資産にしました。",
	"They stay two assets, and are not proposed again.":      "別々の資産のままとし、以後は提案しません。",
	"%s samehost-manager conflicts undo %d takes that back.": "%s samehost-manager conflicts undo %d で取り消せます。",
}
