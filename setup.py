"The package as settings.ini describes it"
from configparser import ConfigParser
from pathlib import Path
import shlex

from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read(here/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
lib = cfg['lib_name']
status = {'1': 'Planning', '2': 'Pre-Alpha', '3': 'Alpha', '4': 'Beta', '5': 'Production/Stable'}

def listed(key): return shlex.split(cfg.get(key, ''))

setup(
    name=lib,
    version=cfg['version'],
    description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    project_urls={'Documentation': cfg['doc_host'] + cfg['doc_baseurl'] + '/'},
    license='MIT',
    keywords=cfg['keywords'],
    classifiers=[
        f"Development Status :: {cfg['status']} - {status[cfg['status']]}",
        'Intended Audience :: Education',
        'Natural Language :: English',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    packages=find_packages(include=[lib, f'{lib}.*'], exclude=[f'{lib}.assets*']),
    package_data={lib: ['assets/**']},
    python_requires=f">={cfg['min_python']}",
    install_requires=listed('requirements'),
    extras_require={'dev': listed('dev_requirements')},
    entry_points={
        'console_scripts': listed('console_scripts'),
        'nbdev': [f'{lib}={lib}._modidx:d'],
    },
    zip_safe=False,
)
