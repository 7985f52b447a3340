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
	"disk": "ディスク", " (system)": " (システム)", "network": "ネットワーク", " (onboard)": " (オンボード)", "had host ID": "ホスト識別子",
	" never enrolled": " 未登録", " enrolled %s": " 登録 %s", ", replaced by %s": "、置き換え後 %s", ", copy of %s": "、複製元 %s", ", blocked": "、ブロック中", ", %d of %d branches blocked": "、分岐 %[2]d 本中 %[1]d 本ブロック中",
	"predecessor": "置き換え前", "conflict %d": "競合 %d", "waits until deletion %d is taken back": "保留中。削除 %d を取り消すと再び未解決になります。", "order": "指示",

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
