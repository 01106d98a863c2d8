/** The flags of `serve` as commander options, made from the table in config.ts. */
import { type Command, Option } from 'commander';
import { type ConfigFlag, SERVE_FLAGS, type ServeConfig, variableOf } from '../config.js';

/** Adds the flags, or those named. Values stay texts: config.ts parses and checks them. */
export function addServeOptions(command: Command, names?: readonly string[]): void {
  for (const flag of SERVE_FLAGS) {
    if (names && !names.includes(flag.name)) continue;
    command.addOption(new Option(usage(flag), `${flag.help} ${notes(flag)}`));
  }
}

function usage(flag: ConfigFlag): string {
  switch (flag.kind.type) {
    case 'switch':
    case 'off-switch':
      return `--${flag.name}`;
    case 'choice':
    case 'integer-choice':
      return `--${flag.name} <${flag.kind.choices.join('|')}>`;
    case 'size':
      return `--${flag.name} <size>`;
    case 'text':
      return `--${flag.name} <text>`;
    default:
      return `--${flag.name} <n>`;
  }
}

function notes(flag: ConfigFlag): string {
  const isSwitch = flag.kind.type === 'switch' || flag.kind.type === 'off-switch';
  const shown =
    flag.defaultText ?? (flag.default === null || isSwitch ? null : String(flag.default));
  return shown === null ? `[${variableOf(flag)}]` : `(default: ${shown}) [${variableOf(flag)}]`;
}

/** What the command line named, by config field: commander's own defaults are left out. */
export function givenFlags(command: Command): Partial<Record<keyof ServeConfig, unknown>> {
  const given: Partial<Record<keyof ServeConfig, unknown>> = {};
  for (const flag of SERVE_FLAGS) {
    const key = attributeName(flag);
    if (command.getOptionValueSource(key) === 'cli')
      given[flag.field] = command.getOptionValue(key);
  }
  return given;
}

function attributeName(flag: ConfigFlag): string {
  // commander stores --no-x under x.
  const name = flag.kind.type === 'off-switch' ? flag.name.replace(/^no-/, '') : flag.name;
  return name.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
